"""How fast encoders are: alone on the GPU, behind the server, and in PyTorch on the same GPU."""

import importlib.util
import json
import sys

import encoders
import serving
from failure import Failed

MODELS, LENGTHS = ["minilm", "bge-base", "bge-large"], [32, 128, 512]
# Tokens of a batch: some fit the second-level cache better, others fill the multiprocessors better.
BUDGETS = {"minilm": [8192, 16384, 32768], "bge-base": [8192, 16384], "bge-large": [8192, 16384]}
# The length whose batches are also measured in other ways.
VARIED = 128


def models(run):
    """Return the names of what is measured, and its lengths."""
    return (["tiny"], [16, 32]) if run.is_small else (MODELS, LENGTHS)


def directory(run, model):
    """Return a directory of the model with random weights, made when it is first asked for."""
    folder = run.scratch / f"random-{model}"
    if not folder.exists():
        encoders.write(folder, model)
    return folder


def lines(output):
    """Return the JSON objects of an output."""
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def cases(run, model, lengths):
    """Return what is measured of a model in f16: sizes, and at one length other ways to run the same."""
    if run.is_small:
        return ["16x4", "32x4,profile", "32x4,lanes=2", "32x4,tuning=first", "32x1,flight=1", "32x1,flight=1,graphs=off"]
    usual = [f"{tokens}x{budget // tokens}" for tokens in lengths for budget in BUDGETS[model]]
    size = f"{VARIED}x{16384 // VARIED}"
    usual[usual.index(size)] += ",profile"
    return usual + [f"{size},lanes=2", f"{size},tuning=first", f"{VARIED}x8", f"{VARIED}x8,graphs=off",
                    "32x1,flight=1", "32x1,flight=1,graphs=off"]


def device_only(run, limit_s):
    """Run batches of every model on lanes, with nothing around them."""
    names, lengths = models(run)
    found, failed = run.found.setdefault("device", []), []
    seconds = 0.2 if run.is_small else 0.7
    share = limit_s / (len(names) + 1)
    for model in names:
        folder = directory(run, model)
        alone = [f"{VARIED}x{16384 // VARIED}"] if not run.is_small else ["32x4"]
        for dtype, sizes in [("f16", cases(run, model, lengths)), ("bf16", alone)]:
            if dtype == "bf16" and float(run.found.get("capability") or 9.0) < 8.0:
                continue
            command = [run.program("acceptance"), "encode", "--model", folder, "--precision", dtype, "--seconds", seconds]
            log = f"device-{model}-{dtype}.log"
            code, output = run.call(command + sizes, log, share * 1.3)
            found += [{"model": model, **line} for line in lines(output) if "tokens" in line]
            if code != 0:
                failed.append(f"{model} {dtype}: {'stopped at its limit' if code is None else run.tail(log)}")
    if failed:
        raise Failed("; ".join(failed))
    return f"{len(found)} measurements"


def served(run, limit_s):
    """Measure the transport alone and the models behind the server, with one row per request and with many."""
    names, lengths = models(run)
    repository, found, failed = run.scratch / "served", run.found.setdefault("served", []), []
    for model in names:
        columns = encoders.SHAPES[model][0]
        config = serving.ENCODER.format(rows=512, columns=columns, dtype="f16", lanes=2, queue=8192)
        serving.place(repository, model, config, directory(run, model))
    serving.place(repository, "identity", serving.IDENTITY)
    seconds, warm = (0.5, 0.2) if run.is_small else (1.5, 0.7)
    with serving.Server(run.program("alcedo"), repository, run.out / "served.log", ["--device", "cuda:0"], limit_s) as server:
        for tokens in lengths:
            for rows, flight in [(1, 16), (4, 8)] if run.is_small else [(1, 512), (64, 16)]:
                for model in ["identity", *names]:
                    command = [run.program("acceptance"), "load", "--address", server.grpc, "--model", model, "--rows", rows,
                               "--flight", flight, "--connections", 8, "--threads", 8, "--seconds", seconds, "--warm", warm]
                    if model == "identity":
                        # As many bytes as ids of 64 bits are.
                        command += ["--content", "floats", "--input", "INPUT0", "--width", 2 * tokens, "--tolerance", 0]
                    else:
                        command += ["--width", tokens, "--vocabulary", encoders.SHAPES[model][4]]
                    log = f"served-{model}-{tokens}-{rows}.log"
                    code, output = run.call(command, log, 30)
                    for line in lines(output):
                        found.append({**line, "tokens": tokens})
                        if line["lost"] or line["wrong"] or set(line["codes"]) != {"Ok"}:
                            said = f"{line['codes']}, {line['wrong']} wrong, {line['lost']} lost"
                            failed.append(f"{model} {tokens}x{rows}: {said}")
                    if code != 0:
                        failed.append(f"{model} {tokens}x{rows}: {run.tail(log)}")
    if failed:
        raise Failed("; ".join(failed))
    return f"{len(found)} measurements, all answers right"


def pytorch(run, limit_s):
    """Measure a plain encoder in PyTorch, as it is and compiled."""
    found = run.found.setdefault("torch", [])
    if importlib.util.find_spec("torch") is None:
        return "not run: this machine has no PyTorch"
    names, lengths = models(run)
    device, dtype = ("cpu", "float32") if run.is_small else ("cuda:0", "float16")
    budget = 64 if run.is_small else 16384
    sizes = [f"{model}:{tokens}x{budget // tokens}" for model in names for tokens in lengths]
    script = run.bundle / "python" / "torch_encoder.py"
    command = [sys.executable, script, "--device", device, "--dtype", dtype]
    code, output = run.call(command + sizes, "torch.log", limit_s / 2)
    found += lines(output)
    if code not in (0, None) or not found:
        raise Failed(f"PyTorch is here but fails: {run.tail('torch.log')}")
    # Compiled: the length in the middle first, as compiling takes long; what there is no time for is left out.
    sizes.sort(key=lambda size: f":{VARIED}x" not in size)
    _, output = run.call([*command, "--compile", *sizes], "torch-compiled.log", limit_s / 2)
    found += lines(output)
    return f"{len(found)} of {2 * len(sizes)} measurements"
