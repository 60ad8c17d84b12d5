"""Request headers that reach the model as parameters: --grpc-header-forward-pattern."""

import pytest

from harness.models import config, write
from harness.server import Server
from harness.wire import INVALID, outputs_of, refused, request

LIMIT_S = 60
ONE = [("INPUT0", "FP32", [1], [1.0])]


@pytest.fixture(scope="module")
def forwarding(tmp_path_factory):
    """A server that forwards all headers with names that begin with x- or contain "prio"."""
    repository = tmp_path_factory.mktemp("forwarding")
    write(repository, "echo", config("echo", "parameter_echo", [("INPUT0", "FP32", [1])],
                                     [("key", "BYTES", [-1]), ("value", "BYTES", [-1])]))
    with Server(repository, "--grpc-header-forward-pattern", "^X-|prio") as server:
        yield server


def seen(reply):
    outputs = outputs_of(reply)
    return dict(zip(outputs["key"][2], outputs["value"][2]))


def test_matching_headers_become_parameters(forwarding):
    headers = (("x-tenant", "blue"), ("other", "no"), ("x-trace-bin", b"\x00\x01"))
    reply = forwarding.stub().ModelInfer(request("echo", ONE, parameters={"mine": 1}), metadata=headers, timeout=LIMIT_S)
    assert seen(reply) == {b"mine": b"1", b"x-tenant": b"blue"}


def test_a_parameter_of_the_request_goes_before_a_header(forwarding):
    reply = forwarding.stub().ModelInfer(
        request("echo", ONE, parameters={"x-tenant": "own"}), metadata=(("x-tenant", "blue"),), timeout=LIMIT_S)
    assert seen(reply) == {b"x-tenant": b"own"}


def test_reserved_headers_are_refused(forwarding):
    text = r"Header 'priority' is reserved for Triton usage and cannot be forwarded\."
    with refused(INVALID, text):
        forwarding.stub().ModelInfer(request("echo", ONE), metadata=(("priority", "1"),), timeout=LIMIT_S)
    replies = forwarding.stub().ModelStreamInfer(
        iter([request("echo", ONE, id="a")]), metadata=(("priority", "1"),), timeout=LIMIT_S)
    failed = next(iter(replies))
    assert "Header 'priority' is reserved" in failed.error_message and failed.infer_response.id == "a"


def test_headers_of_a_stream_reach_each_of_its_requests(forwarding):
    replies = forwarding.stub().ModelStreamInfer(
        iter([request("echo", ONE, id=str(index)) for index in range(3)]), metadata=(("x-tenant", "blue"),), timeout=LIMIT_S)
    assert [seen(reply.infer_response) for reply in replies] == [{b"x-tenant": b"blue"}] * 3


def test_nothing_is_forwarded_by_default(stub):
    reply = stub.ModelInfer(request("parameters", ONE), metadata=(("x-tenant", "blue"),), timeout=LIMIT_S)
    assert seen(reply) == {}


def test_a_bad_pattern_is_a_bad_flag(tmp_path):
    server = Server(tmp_path, "--grpc-header-forward-pattern", "(", ready=False)
    with server:
        assert server.wait_exit() == 2
        assert "--grpc-header-forward-pattern" in server.log()
