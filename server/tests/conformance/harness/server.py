"""One `alcedo serve` process: it chooses its ports, is waited for by its own health answers, and ended by its pid."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import grpc
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

ROOT = pathlib.Path(__file__).resolve().parents[4]

# Seconds that any single wait may take. Generous, for a busy machine: passing tests never come near it.
LIMIT_S = 60.0
# Seconds between two looks at a state.
LOOK_S = 0.02

# What the log says once all sockets are bound, as text and as JSON, in this order.
LISTENS = re.compile("".join(rf'{what} listens.*?address\W+[\d.]+:(\d+)\W.*?' for what in ("grpc", "http", "metrics")), re.DOTALL)

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Every channel has its own connection: gRPC would share one between channels to the same address.
    ("grpc.use_local_subchannel_pool", 1),
]


def binary():
    """Return the path of the server under test: $ALCEDO_BIN, or the debug build of this checkout."""
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    path = pathlib.Path(os.environ.get("ALCEDO_BIN") or target / "debug" / "alcedo")
    if not path.is_absolute():
        path = ROOT / path
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: build it (scripts/test) or set ALCEDO_BIN")
    return path


@contextlib.contextmanager
def closed_port():
    """A TCP port on which nobody listens, and nobody can while it is used: a socket has it that does not listen."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def wait_until(condition, what, limit_s=LIMIT_S):
    """Look at `condition` until it gives something true, return that; fail naming `what` after the limit."""
    end = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(LOOK_S)


class Server:
    """A running server. Use it as a context manager; `ready=False` returns as soon as the process is started.

    `program` is another binary than that under test."""

    def __init__(self, repository, *flags, mode="explicit", load=("*",), env=None, ready=True, program=None):
        repositories = repository if isinstance(repository, (list, tuple)) else [repository]
        self.repository = pathlib.Path(repositories[0])
        command = [str(program or binary()), "serve"]
        for each in repositories:
            command += ["--model-repository", str(each)]
        # The server takes free ports and says which: chosen here, they could be taken by the time it starts.
        command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
        if mode is not None:
            command += ["--model-control-mode", mode]
        if mode == "explicit":
            for name in load:
                command += ["--load-model", name]
        command += list(flags)
        # The server appends through a handle of its own: reading through the same one would move where it writes.
        self._log = tempfile.NamedTemporaryFile(prefix="alcedo-log-")
        self._ports = {}
        self._channels = []
        self._clients = []
        with open(self._log.name, "ab") as sink:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})})
        if ready:
            try:
                self.wait_ready()
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def pid(self):
        """The process id."""
        return self.process.pid

    @property
    def grpc_port(self):
        """The port of gRPC."""
        return self._port("grpc")

    @property
    def http_port(self):
        """The port of HTTP probes."""
        return self._port("http")

    @property
    def metrics_port(self):
        """The port of the metrics."""
        return self._port("metrics")

    @property
    def url(self):
        """The address of gRPC."""
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http(self):
        """The address of HTTP probes."""
        return f"http://127.0.0.1:{self.http_port}"

    def _port(self, what):
        """Wait until the log says where the server listens, and return one of its ports."""
        def said():
            self._running()
            listens = LISTENS.search(self.log())
            return dict(zip(("grpc", "http", "metrics"), map(int, listens.groups()))) if listens else None

        self._ports = self._ports or wait_until(said, "the server listens")
        return self._ports[what]

    def _running(self):
        """Fail with the log if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise AssertionError(f"the server ended with exit code {code}:\n{self.log()}")

    def log(self):
        """Return what the server has written so far."""
        return pathlib.Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def channel(self):
        """Return a new channel with a connection of its own."""
        channel = grpc.insecure_channel(self.url, options=CHANNEL_OPTIONS)
        self._channels.append(channel)
        return channel

    def stub(self):
        """Return the raw inference stub on a new connection."""
        return service_pb2_grpc.GRPCInferenceServiceStub(self.channel())

    def health(self):
        """Return the stub of grpc.health.v1 on a new connection."""
        return health_pb2_grpc.HealthStub(self.channel())

    def client(self):
        """Return a `tritonclient` client."""
        client = triton.InferenceServerClient(self.url)
        self._clients.append(client)
        return client

    def wait_ready(self):
        """Wait until ServerReady says yes; fail with the log if the process ends before."""
        stub = self.stub()

        def ready():
            self._running()
            try:
                return stub.ServerReady(pb.ServerReadyRequest(), timeout=5).ready
            except grpc.RpcError:
                return False

        try:
            wait_until(ready, "the server is ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\nlog:\n{self.log()}") from None

    def wait_serving(self):
        """Wait until the gRPC port answers at all, ready or not."""
        stub = self.stub()

        def live():
            self._running()
            try:
                return stub.ServerLive(pb.ServerLiveRequest(), timeout=5).live
            except grpc.RpcError:
                return False

        wait_until(live, "the server is live")

    def health_status(self, service=""):
        """Return the health status of a service name."""
        reply = self.health().Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_S)
        return health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)

    def resident_bytes(self):
        """Return the resident memory of the process."""
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def terminate(self):
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def wait_exit(self, limit_s=LIMIT_S):
        """Wait for the process to end and return its exit code."""
        return self.process.wait(timeout=limit_s)

    def close(self):
        """Close all clients, end the process and remove its log."""
        for client in self._clients:
            client.close()
        for channel in self._channels:
            channel.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=LIMIT_S)
        self._log.close()
