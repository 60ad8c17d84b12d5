"""A server as a process, and what it is configured with."""

import json
import pathlib
import signal
import subprocess
import threading
import urllib.request

ENCODER = """backend: "candle"
max_batch_size: {rows}
input [ {{ name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }},
        {{ name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }} ]
output [ {{ name: "EMBEDDING" data_type: TYPE_FP32 dims: [ {columns} ] }} ]
parameters {{ key: "model" value {{ string_value: "encoder" }} }}
parameters {{ key: "dtype" value {{ string_value: "{dtype}" }} }}
instance_group [ {{ kind: KIND_GPU gpus: [ 0 ] count: {lanes} }} ]
dynamic_batching {{ default_queue_policy {{ max_queue_size: {queue} }} }}
"""
IDENTITY = """backend: "builtin"
max_batch_size: 512
input [ { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]
output [ { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] } ]
parameters { key: "model" value { string_value: "identity" } }
"""


def place(repository, name, config, directory=None):
    """Put a model into a repository; its files are those of a directory, which stays where it is."""
    (repository / name).mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    if directory is None:
        (repository / name / "1").mkdir()
    else:
        (repository / name / "1").symlink_to(directory.resolve(), target_is_directory=True)


class Server:
    """A server over a repository, on free ports; it is ended on leaving."""

    def __init__(self, program, repository, log, flags=(), patience_s=120):
        self.log = log
        command = [program, "serve", "--model-repository", repository, "--log-format=json", "--drain-delay-secs=0", *flags]
        for name in ("grpc", "http", "metrics"):
            command += [f"--{name}-port=0", f"--{name}-address=127.0.0.1"]
        self.process = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True)
        self.addresses, self.failures = {}, []
        self._ready = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(patience_s) or self.process.poll() is not None:
            self.stop()
            tail = pathlib.Path(log).read_text()[-800:]
            raise RuntimeError(f"the server did not become ready; the end of its log:\n{tail}")

    def _read(self):
        with open(self.log, "w") as file:
            for line in self.process.stderr:
                file.write(line)
                file.flush()
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                said = entry.get("message", "")
                if said.endswith("listens") and "address" in entry:
                    self.addresses[said.split()[0]] = entry["address"]
                if said.startswith("ready"):
                    self._ready.set()
        # It has ended; whoever waits for it shall find out.
        self._ready.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    @property
    def grpc(self):
        return self.addresses["grpc"]

    def metrics(self, family):
        """Return the samples of a family on the metrics page: labels and value."""
        with urllib.request.urlopen(f"http://{self.addresses['metrics']}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        found = [line[len(family):].rsplit(" ", 1) for line in lines if line.startswith(family) and not line.startswith("#")]
        return [(labels, float(value)) for labels, value in found]

    def resident_mib(self):
        """Return the resident memory of the process, MiB."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

    def stop(self):
        """End it; return its exit code, None where it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return None
