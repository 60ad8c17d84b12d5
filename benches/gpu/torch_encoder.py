"""What PyTorch does with the same encoders on the same GPU: one JSON object per measurement.

A plain encoder of its own: fused queries, keys and values, scaled_dot_product_attention, exact GELU, no padding, batches of
equal lengths, which are the best case of PyTorch. Inputs are on the GPU already and results stay there; twenty batches and
more are enqueued before the host waits.

    python3 torch_encoder.py [--device cuda:0] [--dtype float16] [--compile] [--seconds 0.7] MODEL:TOKENSxITEMS ...
"""

import argparse
import json
import time

import torch
from torch.nn import functional

from encoders import SHAPES

# Batches before the clock starts.
WARM_BATCHES = 3


class Layer(torch.nn.Module):
    """A layer of the encoder."""

    def __init__(self, hidden, heads, inner):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = torch.nn.Linear(hidden, 3 * hidden), torch.nn.Linear(hidden, hidden)
        self.up, self.down = torch.nn.Linear(hidden, inner), torch.nn.Linear(inner, hidden)
        self.first, self.second = torch.nn.LayerNorm(hidden, eps=1e-12), torch.nn.LayerNorm(hidden, eps=1e-12)

    def forward(self, hidden):
        items, tokens, width = hidden.shape
        query, key, value = self.qkv(hidden).view(items, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        hidden = self.first(hidden + self.out(mixed.transpose(1, 2).reshape(items, tokens, width)))
        return self.second(hidden + self.down(functional.gelu(self.up(hidden))))


class Encoder(torch.nn.Module):
    """Tokens to vectors of unit length."""

    def __init__(self, shape):
        super().__init__()
        hidden, layers, heads, inner, vocabulary, positions = shape
        self.words, self.positions = torch.nn.Embedding(vocabulary, hidden), torch.nn.Embedding(positions, hidden)
        self.types, self.norm = torch.nn.Embedding(2, hidden), torch.nn.LayerNorm(hidden, eps=1e-12)
        self.layers = torch.nn.ModuleList(Layer(hidden, heads, inner) for _ in range(layers))

    def forward(self, ids):
        positions = torch.arange(ids.shape[1], device=ids.device)
        hidden = self.norm(self.words(ids) + self.positions(positions) + self.types.weight[0])
        for layer in self.layers:
            hidden = layer(hidden)
        return functional.normalize(hidden.float().mean(1), dim=-1)


def measure(run, ids, seconds):
    """Return texts per second."""
    is_gpu = ids.device.type == "cuda"
    wait = torch.cuda.synchronize if is_gpu else lambda: None
    for _ in range(WARM_BATCHES):
        run(ids)
    wait()
    started, batches = time.perf_counter(), 0
    while batches == 0 or time.perf_counter() - started < seconds:
        # Many are enqueued at once, so that the GPU never waits for the host.
        for _ in range(20 if is_gpu else 1):
            run(ids)
            batches += 1
        wait()
    return batches * ids.shape[0] / (time.perf_counter() - started)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--seconds", type=float, default=0.7)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("cases", nargs="+", metavar="MODEL:TOKENSxITEMS")
    arguments = parser.parse_args()
    models = {}
    for case in arguments.cases:
        name, size = case.split(":")
        tokens, items = map(int, size.split("x"))
        if name not in models:
            with torch.device(arguments.device):
                models[name] = Encoder(SHAPES[name]).to(getattr(torch, arguments.dtype)).eval()
        run = torch.compile(models[name], dynamic=False) if arguments.compile else models[name]
        ids = torch.randint(SHAPES[name][4], (items, tokens), device=arguments.device)
        line = {"model": name, "tokens": tokens, "items": items, "dtype": arguments.dtype, "compiled": arguments.compile,
                "torch": torch.__version__}
        try:
            with torch.inference_mode():
                line["items_per_s"] = measure(run, ids, arguments.seconds)
        except RuntimeError as error:
            # Compilation needs a C compiler, and large batches memory; the next case may do without.
            line["error"] = str(error).strip().splitlines()[-1][:300] if str(error).strip() else type(error).__name__
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
