"""Whether everything is right on this GPU: doctor, tests, recorded answers, overload, and NVIDIA's sanitizer."""

import json
import math
import pathlib
import re
import shutil
import threading
import time

import encoders
import serving
from failure import Failed

# The largest difference between an embedding of unit length and the recorded one (PyTorch, f32, weights in f32), with the
# weights of the bundle, which are rounded to f16.
TOLERANCES = {"f32": 2e-3, "f16": 5e-3, "bf16": 4e-2}
PASSED = re.compile(r"test result: (\w+)\. (\d+) passed; (\d+) failed")


def doctor(run, limit_s):
    """Compare every kernel with its twin, and measure the GPU."""
    command = [run.program("alcedo"), "doctor", "--device", "cuda:0", "--json"]
    code, output = run.call(command + (["--quick"] if run.is_small else []), "doctor.log", limit_s)
    try:
        run.found["doctor"] = json.loads(output)
    except ValueError:
        run.found["doctor"] = {}
    gpus = run.found["doctor"].get("gpus")
    if isinstance(gpus, list) and gpus:
        run.found["capability"] = gpus[0]["compute_capability"]
        machine = run.found.setdefault("machine", {})
        machine["gpu"] = machine.get("gpu") or gpus[0]["name"]
    if code != 0:
        raise Failed(f"{'stopped at its limit' if code is None else f'exit code {code}'}: {run.tail('doctor.log')}")
    kernels = run.found["doctor"].get("examined", {}).get("kernels", [])
    cases = sum(kernel["cases"] for kernel in kernels)
    return f"{cases} comparisons of {len(kernels)} operations and dtypes, all within tolerance"


def tests(run, limit_s, program):
    """Run a test binary."""
    log = f"{program}.log"
    code, output = run.call([run.program(program)], log, limit_s)
    found = PASSED.search(output)
    if code != 0 or not found or found[1] != "ok" or int(found[2]) == 0:
        failed = re.findall(r"^test (\S+) \.\.\. FAILED", output, re.MULTILINE)
        how = "stopped at its limit" if code is None else f"exit code {code}"
        raise Failed(f"{how}; failed: {', '.join(failed) or f'see {program}.out'}")
    return f"{found[2]} tests passed"


def kernel_tests(run, limit_s):
    """Kernels beside their twins over shapes and dtypes, streams, memory, graphs."""
    return tests(run, limit_s, "kernels-cuda")


def plan_tests(run, limit_s):
    """Models of every family beside recorded results, lanes, memory."""
    return tests(run, limit_s, "models-cuda")


def asked(run, server, model, inputs):
    """Ask a server with `alcedo infer`; return the first output's numbers."""
    command = [run.program("alcedo"), "infer", "--url", server.grpc, model, "--format", "json", *inputs]
    code, output = run.call(command, "infer.log", 30)
    if code != 0:
        raise Failed(f"{model}: {run.tail('infer.log')}")
    return json.loads(output)["outputs"][0]["data"]


def worst(run, server, model, golden, inputs):
    """Return the largest difference from the recorded embeddings, and the least cosine."""
    largest, least = 0.0, 1.0
    for index, want in enumerate(golden["embeddings"]):
        got = asked(run, server, model, inputs(index))
        if len(got) != len(want):
            raise Failed(f"{model}: {len(got)} numbers for text {index}, expected {len(want)}")
        difference = max(abs(one - other) for one, other in zip(got, want))
        if not math.isfinite(difference):
            raise Failed(f"{model}: text {index} has numbers that are not finite")
        largest = max(largest, difference)
        least = min(least, sum(one * other for one, other in zip(got, want)) / math.dist(got, [0.0] * len(got)))
    return largest, least


def golden(run, limit_s):
    """Serve MiniLM on the GPU, from texts and in every dtype, and compare with what PyTorch gave."""
    golden = json.loads((run.bundle / "golden" / "minilm.json").read_text())
    if run.is_small:
        golden = {name: values[:3] for name, values in golden.items()}
    repository, directory = run.scratch / "golden", run.bundle / "models" / "minilm" / "1"
    (repository / "minilm").mkdir(parents=True)
    (repository / "minilm" / "1").symlink_to(directory.resolve(), target_is_directory=True)
    capability = float(run.found.get("capability") or 9.0)
    dtypes = [dtype for dtype in TOLERANCES if dtype != "bf16" or capability >= 8.0]
    for dtype in dtypes:
        config = serving.ENCODER.format(rows=32, columns=384, dtype=dtype, lanes=1, queue=1000)
        serving.place(repository, f"minilm_{dtype}", config, directory)
    found = {}
    flags = ["--device", "cuda:0"]
    with serving.Server(run.program("alcedo"), repository, run.out / "golden.log", flags, limit_s) as server:
        ids = lambda index: ["-i", f"input_ids={json.dumps(golden['input_ids'][index])}",
                             "-i", f"attention_mask={json.dumps([1] * len(golden['input_ids'][index]))}"]
        for dtype in dtypes:
            found[dtype] = (*worst(run, server, f"minilm_{dtype}", golden, ids), TOLERANCES[dtype])
        texts = lambda index: [golden["texts"][index]]
        found["texts, f16"] = (*worst(run, server, "minilm", golden, texts), TOLERANCES["f16"])
    run.found["golden"] = {name: {"difference": values[0], "cosine": values[1], "tolerance": values[2]}
                           for name, values in found.items()}
    said = ", ".join(f"{name} {values[0]:.1e} (<= {values[2]:.0e})" for name, values in found.items())
    if wrong := [name for name, values in found.items() if values[0] > values[2]]:
        raise Failed(f"{', '.join(wrong)} out of tolerance: {said}")
    return f"{len(golden['texts'])} texts, largest difference {said}"


def overload(run, limit_s):
    """Send a server far more than it can take: it refuses what it has no room for, loses nothing and does not grow."""
    shape, tokens = ("tiny", 16) if run.is_small else ("minilm", 128)
    directory, repository = run.scratch / f"overload-{shape}", run.scratch / "overload"
    encoders.write(directory, shape)
    config = serving.ENCODER.format(rows=16, columns=encoders.SHAPES[shape][0], dtype="f16", lanes=1, queue=64)
    serving.place(repository, "encoder", config, directory)
    seconds = 4 if run.is_small else 12
    samples = []
    with serving.Server(run.program("alcedo"), repository, run.out / "overload.log", ["--device", "cuda:0"]) as server:
        done = threading.Event()

        def watch():
            while not done.wait(0.25):
                samples.append((time.monotonic(), server.resident_mib()))

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        began = time.monotonic()
        command = [run.program("acceptance"), "load", "--address", server.grpc, "--model", "encoder", "--width", tokens,
                   "--vocabulary", encoders.SHAPES[shape][4], "--flight", 1024, "--connections", 8, "--seconds", seconds,
                   "--warm", 1]
        code, output = run.call(command, "overload-load.log", limit_s)
        done.set()
        watching.join()
        pending = sum(value for _, value in server.metrics("nv_inference_pending_request_count"))
        taken = sum(value for _, value in server.metrics("alcedo_gpu_memory_bytes"))
    if code != 0:
        raise Failed(f"the load did not end well: {run.tail('overload-load.log')}")
    line = json.loads(output)
    early = [mib for moment, mib in samples if moment < began + 1 + seconds / 3]
    late = [mib for moment, mib in samples if moment > began + 1 + seconds * 2 / 3]
    growth = max(late, default=0) - max(early, default=0)
    run.found["overload"] = {**line, "growth_mib": growth, "gpu_bytes": taken, "pending": pending}
    said = f"{line['sent']} requests: {line['codes']}, {line['lost']} lost, {line['wrong']} wrong, grew {growth:.0f} MiB"
    unexpected = set(line["codes"]) - {"Ok", "Unavailable"}
    wanted = {"no request lost": line["lost"] == 0, "no answer wrong": line["wrong"] == 0, "nothing pending": pending == 0,
              "no other error than Unavailable": not unexpected, "some refused": "Unavailable" in line["codes"],
              "some answered": line["codes"].get("Ok", 0) > 0, "memory stays below 64 MiB more": growth < 64}
    if missed := [name for name, is_so in wanted.items() if not is_so]:
        raise Failed(f"not so: {', '.join(missed)}; {said}")
    return said


def sanitizer():
    """Return where compute-sanitizer is; None where it is not."""
    places = [shutil.which("compute-sanitizer"), "/usr/local/cuda/bin/compute-sanitizer"]
    return next((place for place in places if place and pathlib.Path(place).exists()), None)


def sanitize(run, limit_s, tool):
    """Run as many kernel tests under a tool as there is time for."""
    program = sanitizer()
    if program is None:
        run.found.setdefault("sanitizer", {})[tool] = "not there"
        return "not run: this machine has no compute-sanitizer"
    _, listed = run.call([run.program("kernels-cuda"), "--list"], f"{tool}-list.log", 30)
    names = [line.removesuffix(": test") for line in listed.splitlines() if line.endswith(": test")]
    # Tests of kernels; what the runtime does is not what the tools look at.
    names = [name for name in names if name.startswith(("operations::", "matmul::", "attention::"))]
    end, clean, cut = time.monotonic() + min(limit_s, run.left()), [], []
    for name in names:
        left = end - time.monotonic()
        if left < 3:
            break
        command = [program, "--tool", tool, "--error-exitcode", 9, "--target-processes", "all",
                   run.program("kernels-cuda"), "--exact", name, "--test-threads", 1]
        log = f"{tool}-{name.replace(':', '_')}.log"
        code, output = run.call(command, log, left)
        if code is None:
            cut.append(name)
        elif code != 0 or "1 passed" not in output:
            raise Failed(f"{name}: exit code {code}: {run.tail(log)}")
        else:
            clean.append(name)
    run.found.setdefault("sanitizer", {})[tool] = {"clean": clean, "cut": cut, "of": len(names)}
    if not clean:
        raise Failed(f"no test ended within {limit_s} s; nothing was found until then")
    rest = "; there was no time for the others" if len(clean) < len(names) else ""
    return f"{len(clean)} of {len(names)} kernel tests are clean{rest}"


def memcheck(run, limit_s):
    """Look for reads and writes out of bounds."""
    return sanitize(run, limit_s, "memcheck")


def racecheck(run, limit_s):
    """Look for races on shared memory."""
    return sanitize(run, limit_s, "racecheck")
