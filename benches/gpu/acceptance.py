"""Drives the checks and measurements of a bundle on a machine with a GPU; see `run`."""

import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import traceback

import checks
import measures
import report
from failure import Failed

# The whole run, so that it fits into ten minutes with its start and end.
SECONDS = 570
# The emulated device takes so many times as long as a GPU is given.
EMULATED = 10


class Run:
    """What steps share: where things are, what has been found, and how much time is left."""

    def __init__(self, bundle, out):
        self.bundle, self.out = pathlib.Path(bundle), pathlib.Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.is_small = os.environ.get("ALCEDO_ACCEPTANCE_SMALL") == "1"
        self.started = time.monotonic()
        self.end = self.started + float(os.environ.get("ALCEDO_ACCEPTANCE_SECONDS") or SECONDS)
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="alcedo-acceptance-"))
        self.steps, self.found = [], {}
        # Fixtures lie in the bundle, not where the tests were built.
        self.environment = {**os.environ, "ALCEDO_TEST_FIXTURES": str(self.bundle / "fixtures")}

    def left(self):
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def program(self, name):
        """Return the path of a program of the bundle."""
        return str(self.bundle / "bin" / name)

    def call(self, command, log, limit_s):
        """Run a command; return exit code and standard output. Both outputs are kept. A limit ends it: no exit code then."""
        limit_s = max(1.0, min(limit_s, self.left()))
        with open(self.out / log, "w") as errors:
            process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=errors, text=True,
                                       env=self.environment, cwd=self.scratch, start_new_session=True)
            try:
                output, _ = process.communicate(timeout=limit_s)
                code = process.returncode
            except subprocess.TimeoutExpired:
                # Its own group, so that processes which it started end as well.
                os.killpg(process.pid, 9)
                output, _ = process.communicate()
                code = None
        (self.out / log).with_suffix(".out").write_text(output)
        return code, output

    def tail(self, log, size=400):
        """Return the end of a log."""
        return (self.out / log).read_text(errors="replace")[-size:].strip()

    def step(self, name, limit_s, action):
        """Take a step; whatever becomes of it, the next is taken. A step returns what it has to say."""
        began = time.monotonic()
        if self.left() < 5:
            ok, said = False, "no time was left for it"
        else:
            try:
                ok, said = True, action(self, limit_s)
            except Failed as error:
                ok, said = False, str(error)
            except Exception as error:  # Whatever it is, it is this step's failure and not the end of the others.
                (self.out / "errors.log").open("a").write(f"{name}\n{traceback.format_exc()}\n")
                ok, said = False, f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - began
        self.steps.append({"step": name, "ok": ok, "seconds": round(seconds, 1), "said": said})
        print(f"{'ok    ' if ok else 'FAILED'} {seconds:6.1f} s  {name}: {said[:300]}", flush=True)


def machine(run, _limit_s):
    """Say what the machine is."""
    processor = next((line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith("model name")), platform.machine())
    gpu = ""
    if shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        code, output = run.call(query, "nvidia-smi.log", 20)
        gpu = output.strip().splitlines()[0] if code == 0 and output.strip() else ""
    version = (run.bundle / "VERSION").read_text().strip()
    run.found["machine"] = {"gpu": gpu, "processor": processor, "cores": os.cpu_count(), "bundle": version}
    return f"{gpu or 'nvidia-smi tells of no GPU'}; {processor}, {os.cpu_count()} cores; {version}"


STEPS = [
    ("machine", 20, machine),
    ("doctor", 120, checks.doctor),
    ("kernel tests", 90, checks.kernel_tests),
    ("plan tests", 90, checks.plan_tests),
    ("golden answers", 60, checks.golden),
    ("device-only", 130, measures.device_only),
    ("served", 110, measures.served),
    ("overload", 30, checks.overload),
    ("PyTorch", 100, measures.pytorch),
    ("memcheck", 60, checks.memcheck),
    ("racecheck", 60, checks.racecheck),
]


def main():
    run = Run(sys.argv[1], sys.argv[2])
    try:
        for name, limit_s, action in STEPS:
            run.step(name, limit_s * (EMULATED if run.is_small else 1), action)
        table = report.markdown(run)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    (run.out / "results.md").write_text(table)
    (run.out / "results.json").write_text(json.dumps({"steps": run.steps, **run.found}, indent=1) + "\n")
    print(f"\n{table[:7800]}")
    failed = [step["step"] for step in run.steps if not step["ok"]]
    print(f"{len(run.steps) - len(failed)} of {len(run.steps)} steps are right in {time.monotonic() - run.started:.0f} s"
          + (f"; failed: {', '.join(failed)}" if failed else "") + f". Files: {run.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
