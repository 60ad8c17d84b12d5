"""The example clients, run as their users run them, against a live server."""

import os
import re
import socket
import subprocess
import sys
import threading

import httpx
import pytest

from harness.metrics import scrape
from harness.models import config, write
from harness.server import LIMIT_S, ROOT, Server, closed_port, wait_until
from harness.state import busy_seconds

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def minilm():
    """A server with the real model."""
    with Server(EXAMPLES / "repository", load=("minilm",)) as server:
        yield server


def embed(server, *arguments):
    """Run the Python client."""
    return subprocess.run(
        [sys.executable, str(EXAMPLES / "clients" / "python" / "embed.py"), "--url", server.url, *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)


def test_python_client(minilm):
    done = embed(minilm)
    assert done.returncode == 0, done.stderr
    assert "6 sentences, embeddings of 384 numbers" in done.stdout
    gaps = [float(number) for number in re.findall(r"largest difference to sync (\S+)", done.stdout)]
    assert len(gaps) == 3 and max(gaps) <= 1e-6
    rows = [line.split()[1:] for line in done.stdout.splitlines() if re.match(r"^  +\d+ +-?\d\.\d{3}", line)]
    similarity = [[float(value) for value in row] for row in rows]
    # The first two sentences mean the same, as do the third and fourth; the last is about something else.
    assert similarity[0][1] > 0.6 and similarity[2][3] > 0.4 and similarity[0][5] < 0.3


@pytest.mark.parametrize("mode", ["sync", "async", "stream"])
def test_python_client_modes(minilm, mode):
    done = embed(minilm, "--mode", mode, "One sentence.", "Another one.")
    assert done.returncode == 0, done.stderr
    assert "2 sentences" in done.stdout


def test_python_client_without_the_model(minilm):
    done = embed(minilm, "--model", "nobody")
    assert done.returncode == 1 and "'nobody' is not ready" in done.stderr


class Service:
    """The orchestration example under uvicorn, as a process of its own."""

    def __init__(self, url, **environment):
        # The service listens on this very socket, so nobody can take its port before it starts.
        with socket.create_server(("127.0.0.1", 0)) as bound:
            self.url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            self.process = subprocess.Popen(
                [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "orchestration"), "service:app",
                 "--fd", str(bound.fileno()), "--log-level", "warning"],
                stdin=subprocess.DEVNULL, pass_fds=[bound.fileno()],
                env={**os.environ, "ALCEDO_URL": url, **environment})
        try:
            wait_until(lambda: self.status("/health/live") == 200, "the service answers")
        except BaseException:
            self.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def get(self, path, **parameters):
        """Send a GET request."""
        return httpx.get(self.url + path, params=parameters, timeout=LIMIT_S)

    def status(self, path, **parameters):
        """Return the status of a GET request, 0 while nobody listens."""
        try:
            return self.get(path, **parameters).status_code
        except httpx.TransportError:
            return 0

    def close(self):
        """End the process."""
        self.process.terminate()
        self.process.wait(timeout=LIMIT_S)


@pytest.fixture(scope="module")
def service(minilm):
    """The service in front of the real model."""
    with Service(minilm.url, SEARCH_DEADLINE_SECS="30") as running:
        yield running


def test_service_is_ready(service):
    # The service gives the model server one second to say so, which may be too little on a busy machine.
    wait_until(lambda: service.get("/health/ready").json() == {"ready": True}, "the service is ready")


def test_service_searches_by_meaning(service):
    results = service.get("/search", text="May I leave my yacht here until tomorrow?", count=2).json()["results"]
    assert len(results) == 2
    assert results[0]["passage"] == "Boats longer than twelve meters need a permit to moor overnight."
    assert results[0]["score"] > results[1]["score"]


def test_service_embeds(service):
    reply = httpx.post(service.url + "/embed", json={"texts": ["one", "two", "three"]}, timeout=LIMIT_S)
    embeddings = reply.json()["embeddings"]
    assert reply.status_code == 200 and [len(row) for row in embeddings] == [384] * 3


@pytest.mark.parametrize("body", [{}, {"texts": []}, {"texts": ["x"] * 65}, {"texts": "x"}])
def test_service_refuses_bad_bodies(service, body):
    assert httpx.post(service.url + "/embed", json=body, timeout=LIMIT_S).status_code == 422


def test_service_without_a_model_server():
    with closed_port() as port, Service(f"127.0.0.1:{port}", SEARCH_DEADLINE_SECS="1") as service:
        assert service.status("/health/live") == 200
        assert service.status("/health/ready") == 503
        assert service.status("/search", text="anything") in (503, 504)


def test_service_without_the_model(minilm):
    with Service(minilm.url, ALCEDO_MODEL="nobody", SEARCH_DEADLINE_SECS="10") as service:
        assert service.status("/health/ready") == 503
        reply = service.get("/search", text="anything")
        assert reply.status_code == 400 and "'nobody' is not found" in reply.json()["error"]


def slow_encoder(repository, delay_ms):
    """Write a model with the encoder's names that answers late. Its embedding is the text's first bytes."""
    write(repository, "slow", config(
        "slow", "identity", [("TEXT", "BYTES", [1])], [("EMBEDDING", "BYTES", [1])], 64,
        {"execute_delay_ms": str(delay_ms)}))


def test_service_keeps_its_deadline(repository):
    slow_encoder(repository, 3_000_000)
    with Server(repository) as server, Service(server.url, ALCEDO_MODEL="slow", SEARCH_DEADLINE_SECS="0.3") as service:
        reply = service.get("/search", text="anything")
        assert reply.status_code in (503, 504), reply.text


def test_service_refuses_more_than_it_can_hold(repository):
    # The first request is under way for far longer than the test takes.
    slow_encoder(repository, 3_000_000)
    with Server(repository) as server, Service(
            server.url, ALCEDO_MODEL="slow", SEARCH_DEADLINE_SECS="3000", SEARCH_CONCURRENCY="1") as service:
        statuses = []

        def post():
            reply = httpx.post(service.url + "/embed", json={"texts": ["x"]}, timeout=LIMIT_S)
            statuses.append(reply.status_code)

        first = threading.Thread(target=post)
        first.start()
        wait_until(lambda: busy_seconds(scrape(server), "slow") > 0, "the first request is executed")
        for _ in range(4):
            post()
        assert statuses == [429] * 4
        # With the model server the first request ends too, and it was not refused.
        server.close()
        first.join(LIMIT_S)
        assert len(statuses) == 5 and statuses[-1] != 429, statuses
