"""Encoders with the sizes of published models and random weights in f16, as directories."""

import json
import random
import struct

# Hidden size, layers, heads, inner size, vocabulary, positions.
SHAPES = {
    "minilm": (384, 6, 12, 1536, 30522, 512),
    "bge-base": (768, 12, 12, 3072, 30522, 512),
    "bge-large": (1024, 24, 16, 4096, 30522, 512),
    "tiny": (64, 2, 2, 256, 500, 64),
}
# A prime number of values, so that no two rows of a matrix are alike when they are repeated.
BLOCK = 65_521


def tensors(shape):
    """Yield names, sizes, and whether a tensor is filled with ones, zeros or random numbers."""
    hidden, layers, _, inner, vocabulary, positions = shape

    def linear(name, outputs, inputs):
        yield f"{name}.weight", [outputs, inputs], "random"
        yield f"{name}.bias", [outputs], "random"

    def norm(name):
        yield f"{name}.weight", [hidden], "ones"
        yield f"{name}.bias", [hidden], "zeros"

    for table, rows in [("word", vocabulary), ("position", positions), ("token_type", 2)]:
        yield f"embeddings.{table}_embeddings.weight", [rows, hidden], "random"
    yield from norm("embeddings.LayerNorm")
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        for part in ["query", "key", "value"]:
            yield from linear(f"{name}.attention.self.{part}", hidden, hidden)
        yield from linear(f"{name}.attention.output.dense", hidden, hidden)
        yield from norm(f"{name}.attention.output.LayerNorm")
        yield from linear(f"{name}.intermediate.dense", inner, hidden)
        yield from linear(f"{name}.output.dense", hidden, inner)
        yield from norm(f"{name}.output.LayerNorm")


def repeated(block, start, size):
    """Return so many bytes of a block that begins anew at its end, from a place on."""
    start %= len(block)
    head = block[start:start + size]
    whole, rest = divmod(size - len(head), len(block))
    return head + block * whole + block[:rest]


def write(folder, name):
    """Write a directory that is served as an embedding model: mean of the tokens, unit length."""
    shape = SHAPES[name]
    hidden, layers, heads, inner, vocabulary, positions = shape
    folder.mkdir(parents=True)
    config = {
        "architectures": ["BertModel"], "model_type": "bert", "hidden_act": "gelu", "hidden_size": hidden,
        "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": inner,
        "max_position_embeddings": positions, "type_vocab_size": 2, "vocab_size": vocabulary, "pad_token_id": 0,
        "layer_norm_eps": 1e-12, "torch_dtype": "float16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    kinds = [("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"), ("2", "2_Normalize", "Normalize")]
    modules = [{"idx": index, "name": number, "path": path, "type": f"sentence_transformers.models.{kind}"}
               for index, (number, path, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    draw = random.Random(1)
    block = struct.pack(f"<{BLOCK}e", *(draw.gauss(0, 0.04) for _ in range(BLOCK)))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for tensor, sizes, _ in tensors(shape):
        count = 1
        for size in sizes:
            count *= size
        header[tensor] = {"dtype": "F16", "shape": sizes, "data_offsets": [end, end + 2 * count]}
        end += 2 * count
    written = json.dumps(header).encode()
    written += b" " * (-len(written) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(written)) + written)
        for tensor, _, kind in tensors(shape):
            start, stop = header[tensor]["data_offsets"]
            if kind == "random":
                file.write(repeated(block, start, stop - start))
            else:
                file.write(struct.pack("<e", 1.0 if kind == "ones" else 0.0) * ((stop - start) // 2))
