"""Puts MiniLM with weights in f16, and its recorded answers, into a bundle: `bundled.py MODEL GOLDEN.npz BUNDLE`."""

import json
import pathlib
import shutil
import struct
import sys

import numpy as np

NUMBERS = {"F32": np.float32, "F16": np.float16, "I64": np.int64}


def halve(source, target):
    """Copy a file of tensors, with those in f32 rounded to f16."""
    data = source.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), data[8 + size:]
    tensors, parts, end = {"__metadata__": header.pop("__metadata__", {"format": "pt"})}, [], 0
    for name, tensor in header.items():
        start, stop = tensor["data_offsets"]
        values = np.frombuffer(body[start:stop], NUMBERS[tensor["dtype"]])
        if tensor["dtype"] == "F32":
            values, tensor["dtype"] = values.astype(np.float16), "F16"
            if not np.isfinite(values).all():
                sys.exit(f"bundled: '{name}' has numbers that f16 does not hold")
        parts.append(values.tobytes())
        tensors[name] = {**tensor, "data_offsets": [end, end + len(parts[-1])]}
        end += len(parts[-1])
    written = json.dumps(tensors).encode()
    written += b" " * (-len(written) % 8)
    target.write_bytes(struct.pack("<Q", len(written)) + written + b"".join(parts))


def main():
    model, golden, bundle = map(pathlib.Path, sys.argv[1:])
    target = bundle / "models" / "minilm" / "1"
    shutil.copytree(model / "1", target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    halve(model / "1" / "model.safetensors", target / "model.safetensors")
    for notice in ("LICENSE", "NOTICE"):
        shutil.copy(model / notice, target.parent / notice)
    known = np.load(golden, allow_pickle=False)
    ends = np.cumsum(known["lengths"])
    rows = [known["input_ids"][end - length:end].tolist() for length, end in zip(known["lengths"], ends)]
    # As many digits as tell numbers of 32 bits apart.
    embeddings = [[float(f"{value:.9g}") for value in row] for row in known["embeddings"]]
    texts = [str(text) for text in known["texts"]]
    (bundle / "golden" / "minilm.json").write_text(json.dumps({"texts": texts, "input_ids": rows, "embeddings": embeddings}))


if __name__ == "__main__":
    main()
