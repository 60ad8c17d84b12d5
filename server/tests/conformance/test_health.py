"""Live and ready, from the first millisecond to the drain: gRPC, grpc.health.v1 and the HTTP probes."""

import json
import queue
import socket
import threading
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tritonclient.grpc import service_pb2 as pb

from harness.models import SlowLoad, write_identity, write_sleep
from harness.server import LIMIT_S as WAIT_S
from harness.server import Server, wait_until
from harness.state import hold, nap, send, wait_pending
from harness.state import queue as queue_up
from harness.wire import NOT_FOUND, UNAVAILABLE, refused, request

LIMIT_S = 60


def get(url, data=None, method=None):
    """Return (status, body) of an HTTP request."""
    asked = urllib.request.Request(url, data=data, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=LIMIT_S) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def probe(url):
    """Return the status of a probe, 0 while nobody listens."""
    try:
        return get(url)[0]
    except urllib.error.URLError:
        return 0


def test_live_and_ready(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("identity_fp32") and client.is_model_ready("latest_2", "2")


@pytest.mark.parametrize("name, version", [("nobody", ""), ("nobody", "1"), ("latest", "1"), ("latest", "9")])
def test_model_that_is_not_ready(client, name, version):
    assert client.is_model_ready(name, version) is False


def test_model_ready_with_a_bad_version(stub):
    with pytest.raises(grpc.RpcError, match="version"):
        stub.ModelReady(pb.ModelReadyRequest(name="identity_fp32", version="x"), timeout=LIMIT_S)


@pytest.mark.parametrize("service", ["", "liveness", "identity_fp32"])
def test_health_check(zoo, service):
    assert zoo.health_status(service) == "SERVING"


def test_health_check_of_an_unknown_service(zoo):
    with refused(NOT_FOUND):
        zoo.health().Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=LIMIT_S)


def states(stub):
    """Return {(name, state)} of the index."""
    return {(model.name, model.state) for model in
            stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=LIMIT_S).models}


def test_live_at_once_and_ready_when_the_start_up_set_is_loaded(repository):
    write_identity(repository, "quick")
    slow = SlowLoad(repository, "slow")
    with Server(repository, ready=False) as server:
        server.wait_serving()
        stub = server.stub()
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
        assert not stub.ModelReady(pb.ModelReadyRequest(name="slow"), timeout=LIMIT_S).ready
        assert server.health_status() == "NOT_SERVING"
        assert server.health_status("liveness") == "SERVING"
        wait_until(lambda: probe(f"{server.http}/v2/health/live") == 200, "the HTTP port answers")
        assert probe(f"{server.http}/v2/health/ready") == 400
        wait_until(lambda: ("slow", "LOADING") in states(stub), "slow is being loaded")
        # What is loaded serves already.
        wait_until(lambda: stub.ModelReady(pb.ModelReadyRequest(name="quick"), timeout=LIMIT_S).ready, "quick is ready")
        stub.ModelInfer(request("quick", [("INPUT0", "FP32", [1], [1.0])]), timeout=LIMIT_S)
        assert not stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
        slow.end()
        server.wait_ready()
        assert server.health_status() == server.health_status("slow") == "SERVING"
        assert probe(f"{server.http}/v2/health/ready") == 200


def test_watch(repository):
    slow = SlowLoad(repository, "slow")
    with Server(repository, "--drain-delay-secs", "2", ready=False) as server:
        server.wait_serving()
        seen = queue.Queue()

        def watch():
            try:
                for reply in server.health().Watch(health_pb2.HealthCheckRequest(), timeout=LIMIT_S):
                    seen.put(health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status))
            except grpc.RpcError as error:
                seen.put(error.code())

        thread = threading.Thread(target=watch)
        thread.start()
        assert seen.get(timeout=LIMIT_S) == "NOT_SERVING"
        slow.end()
        assert seen.get(timeout=LIMIT_S) == "SERVING"
        server.terminate()
        assert seen.get(timeout=LIMIT_S) == "NOT_SERVING"
        assert server.wait_exit() == 0
        thread.join(LIMIT_S)


def test_watch_of_a_model(repository):
    write_identity(repository, "model")
    with Server(repository, load=()) as server:
        stub = server.stub()
        watch = server.health().Watch(health_pb2.HealthCheckRequest(service="model"), timeout=LIMIT_S)
        name = health_pb2.HealthCheckResponse.ServingStatus.Name
        first = name(next(watch).status)
        assert first in ("SERVICE_UNKNOWN", "NOT_SERVING")
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="model"), timeout=LIMIT_S)
        for reply in watch:
            if name(reply.status) == "SERVING":
                break
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="model"), timeout=LIMIT_S)
        assert name(next(watch).status) != "SERVING"
        watch.cancel()


def test_background_load_does_not_flip_ready(repository):
    write_identity(repository, "first")
    slow = SlowLoad(repository, "slow")
    write_identity(repository, "broken", parameters={"model": "no_such_kind"})
    with Server(repository, load=("first",)) as server:
        stub = server.stub()
        load = stub.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="slow"), timeout=LIMIT_S)
        wait_until(lambda: ("slow", "LOADING") in states(stub), "slow is being loaded")
        for _ in range(20):
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
        assert not load.done()
        slow.end()
        while not load.done():
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
        load.result()
        with pytest.raises(grpc.RpcError):
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="broken"), timeout=LIMIT_S)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="slow"), timeout=LIMIT_S)
        assert stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready


def not_ready(stub):
    """Whether ServerReady says no, or that the server is exiting."""
    try:
        return not stub.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready
    except grpc.RpcError as error:
        return error.code() == UNAVAILABLE


def test_new_work_is_served_while_load_balancers_have_not_noticed(repository):
    write_identity(repository, "quick")
    # The delay is far longer than the test may take.
    with Server(repository, "--drain-delay-secs", "3000") as server:
        stub = server.stub()
        server.terminate()
        wait_until(lambda: not_ready(stub), "the server is not ready")
        assert server.health_status() == "NOT_SERVING"
        assert probe(f"{server.http}/v2/health/ready") in (400, 503)
        during = stub.ModelInfer(request("quick", [("INPUT0", "FP32", [1], [1.0])], id="during"), timeout=LIMIT_S)
        assert during.id == "during"


def test_drain(repository):
    write_sleep(repository, "sleep")
    write_identity(repository, "quick")
    with Server(repository, "--drain-delay-secs", "1") as server:
        stub = server.stub()
        held = hold(server, nap("sleep"))
        before = queue_up(server, stub, nap("sleep", 0.0, id="before"), 1)
        server.terminate()
        wait_until(lambda: not_ready(stub), "the server is not ready")

        def refuses():
            (call,) = send(stub, request("quick", [("INPUT0", "FP32", [1], [1.0])]))
            return call.exception()

        refusal = wait_until(refuses, "new work is refused after the drain delay")
        assert refusal.code() == UNAVAILABLE
        assert not before.done(), "the server waited for the last request before it refused new ones"
        held.cancel()
        assert before.result().id == "before"
        assert server.wait_exit() == 0


def test_drain_finishes_streams(repository):
    write_sleep(repository, "sleep")
    with Server(repository, "--drain-delay-secs", "0") as server:
        held = hold(server, nap("sleep"))
        messages = [nap("sleep", 0.3, id=str(number)) for number in range(4)]
        call = server.stub().ModelStreamInfer(iter(messages), timeout=LIMIT_S)
        wait_pending(server, "sleep", 4)
        held.cancel()
        replies = [next(call)]
        server.terminate()
        replies += list(call)
        assert [reply.infer_response.id for reply in replies] == ["0", "1", "2", "3"]
        assert server.wait_exit() == 0


def test_exit_timeout_ends_the_wait(repository):
    write_sleep(repository, "sleep")
    with Server(repository, "--drain-delay-secs", "0", "--exit-timeout-secs", "1") as server:
        call = hold(server, nap("sleep"))
        server.terminate()
        server.wait_exit(WAIT_S)
        assert isinstance(call.exception(), grpc.RpcError)


def test_silent_connections_do_not_hold_up_the_end(repository):
    write_identity(repository, "first")
    # Without a limit of its own for connections, the server would wait for them as long as for requests.
    with Server(repository, "--drain-delay-secs", "0", "--exit-timeout-secs", "3600") as server:
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
        silent = []
        for port, said in [(server.grpc_port, b""), (server.grpc_port, preface), (server.http_port, b""),
                           (server.http_port, b"GET /v2/health/live HTTP/1.1\r\nho")]:
            connection = socket.create_connection(("127.0.0.1", port), timeout=WAIT_S)
            connection.sendall(said)
            silent.append(connection)
        assert server.stub().ServerLive(pb.ServerLiveRequest(), timeout=LIMIT_S).live
        server.terminate()
        assert server.wait_exit() == 0
        for connection in silent:
            connection.close()


def test_exit_without_work(repository):
    write_identity(repository, "first")
    with Server(repository, "--drain-delay-secs", "0") as server:
        server.terminate()
        assert server.wait_exit() == 0


def test_http_probes(zoo):
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/identity_fp32/ready",
                 "/v2/models/latest_2/versions/2/ready"):
        assert get(zoo.http + path)[0] == 200, path
    for path in ("/v2/models/nobody/ready", "/v2/models/latest_2/versions/9/ready"):
        assert get(zoo.http + path)[0] == 400, path


def test_http_metadata(zoo, client):
    status, body = get(f"{zoo.http}/v2")
    metadata = json.loads(body)
    over_grpc = client.get_server_metadata()
    assert (status, metadata["name"], metadata["version"]) == (200, over_grpc.name, over_grpc.version)
    assert metadata["extensions"] == list(over_grpc.extensions)
    for path in ("/v2/models/latest_2", "/v2/models/latest_2/versions/3"):
        status, body = get(zoo.http + path)
        model = json.loads(body)
        assert (status, model["name"]) == (200, "latest_2")
        assert model["inputs"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": [1]}
    assert json.loads(get(f"{zoo.http}/v2/models/latest_2")[1])["versions"] == ["2", "3"]


def test_http_errors(zoo):
    status, body = get(f"{zoo.http}/v2/models/nobody")
    assert status == 400
    assert json.loads(body) == {"error": "Request for unknown model: 'nobody' is not found"}
    status, body = get(f"{zoo.http}/v2/models/latest_2/versions/9")
    assert status == 404
    assert json.loads(body) == {"error": "Request for unknown model: 'latest_2' version 9 is not found"}


LATER = [
    ("GET", "/v2/models/identity_fp32/config"), ("GET", "/v2/models/identity_fp32/stats"), ("GET", "/v2/models/stats"),
    ("POST", "/v2/models/identity_fp32/infer"), ("POST", "/v2/models/identity_fp32/versions/1/infer"),
    ("POST", "/v2/models/identity_fp32/generate"), ("POST", "/v2/models/identity_fp32/generate_stream"),
    ("POST", "/v2/repository/index"), ("POST", "/v2/repository/models/identity_fp32/load"),
    ("POST", "/v2/repository/models/identity_fp32/unload"), ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/cudasharedmemory/status"), ("GET", "/v2/trace/setting"), ("GET", "/v2/logging"),
]


@pytest.mark.parametrize("method, path", LATER, ids=[f"{method} {path}" for method, path in LATER])
def test_the_rest_of_rest_is_not_implemented(zoo, method, path):
    status, body = get(zoo.http + path, b"{}" if method == "POST" else None, method)
    assert status == 501
    assert json.loads(body)["error"]


def test_http_path_that_does_not_exist(zoo):
    assert get(f"{zoo.http}/v2/nothing/of/the/kind")[0] in (404, 501)
    assert get(f"{zoo.http}/index.html")[0] == 404
