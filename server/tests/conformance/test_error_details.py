"""Machine-readable details of errors: reasons in trailers, and as parameters on streams."""

import pathlib
import re

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.details import details_of
from harness.models import SlowLoad, config, ensemble, write, write_sleep
from harness.server import ROOT, Server
from harness.state import hold, nap, queue
from harness.wire import UNAVAILABLE, parameters_of, request

LIMIT_S = 60

ROW = [1] * 16
A, B = ("INPUT0", "INT32", [16], ROW), ("INPUT1", "INT32", [16], ROW)

CASES = {
    "unknown model": (request("nobody", [A]), "UNKNOWN_MODEL", "lookup", {}),
    "unknown version": (request("add_sub", [A, B], version="7"), "UNKNOWN_VERSION", "lookup", {}),
    "no version": (request("add_sub", [A, B], version="x"), "INVALID_VERSION", "decode", {}),
    "reserved parameter": (
        request("add_sub", [A, B], parameters={"triton_x": 1}), "RESERVED_PARAMETER", "decode", {"parameter": "triton_x"}),
    "parameter of the wrong type": (
        request("add_sub", [A, B], parameters={"timeout": "1"}), "PARAMETER_TYPE", "decode", {"parameter": "timeout"}),
    "no contents": (request("add_sub", [("INPUT0", "INT32", [16], None), B[:3] + (None,)]), "NO_CONTENTS", "decode",
                    {"input": "INPUT0"}),
    "missing input": (request("add_sub", [A]), "MISSING_INPUT", "validation", {}),
    "unexpected input": (
        request("add_sub", [A, ("X", "INT32", [16], ROW)]), "UNEXPECTED_INPUT", "validation", {"input": "X"}),
    "unexpected output": (request("add_sub", [A, B], ["Y"]), "UNEXPECTED_OUTPUT", "validation", {"output": "Y"}),
    "doubled input": (request("add_sub", [A, A]), "DUPLICATE_INPUT", "validation", {"input": "INPUT0"}),
    "wrong datatype": (
        request("add_sub", [A, ("INPUT1", "FP32", [16], ROW)]), "WRONG_DATATYPE", "validation", {"input": "INPUT1"}),
    "wrong shape": (
        request("add_sub", [A, ("INPUT1", "INT32", [8], [1] * 8)]), "WRONG_SHAPE", "validation", {"input": "INPUT1"}),
    "wrong size": (
        request("add_sub", [A, ("INPUT1", "INT32", [16], b"x")]), "CONTENTS_SIZE", "validation", {"input": "INPUT1"}),
    "too large a batch": (
        request("add_sub_batch", [(name, "INT32", [9, 16], ROW * 9) for name in ("INPUT0", "INPUT1")]),
        "BATCH_TOO_LARGE", "validation", {}),
    "a decoupled model": (request("repeat", []), "DECOUPLED_NEEDS_STREAM", "lookup", {}),
    "a model that refuses": (
        request("add_sub_bytes", [(name, "BYTES", [4], [b"x"] * 4) for name in ("INPUT0", "INPUT1")]),
        "MODEL_REFUSED_REQUEST", "execution", {}),
}


@pytest.mark.parametrize("what", CASES)
def test_every_error_has_a_reason(zoo, what):
    message, reason, stage, subject = CASES[what]
    with pytest.raises(grpc.RpcError) as error:
        zoo.stub().ModelInfer(message, timeout=LIMIT_S)
    info, wait = details_of(error.value)
    assert info.reason == reason
    assert dict(info.metadata) == {"model": message.model_name, "stage": stage, **subject}
    assert wait is None


def documented():
    """Return the reasons that the documentation lists."""
    text = (pathlib.Path(ROOT) / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.split("## Errors", 1)[1].split("\n## ", 1)[0]
    return set(re.findall(r"`([A-Z][A-Z_]+)`", section))


def test_the_documentation_lists_every_reason():
    source = (pathlib.Path(ROOT) / "server" / "src" / "grpc" / "details.rs").read_text(encoding="utf-8")
    reasons = set(re.findall(r'"([A-Z][A-Z_]{4,})"', source.split("#[cfg(test)]")[0])) - {"ENSEMBLE_STEP"}
    assert len(reasons) > 40
    assert reasons <= documented(), reasons - documented()


def test_on_a_stream_the_same_as_parameters(zoo):
    messages = [message for message, *_ in CASES.values() if message.model_name != "repeat"]
    reasons = [reason for message, reason, *_ in CASES.values() if message.model_name != "repeat"]
    replies = list(zoo.stub().ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [parameters_of(reply.infer_response)["alcedo_reason"] for reply in replies] == reasons
    for reply in replies:
        parameters = parameters_of(reply.infer_response)
        assert reply.error_message and parameters["alcedo_status_code"] and "alcedo_retry_after_ms" not in parameters


def test_a_stream_that_ends_with_its_error_has_the_details(zoo):
    call = zoo.stub().ModelStreamInfer(iter([request("nobody", [A])]), metadata=[("triton_grpc_error", "true")],
                                       timeout=LIMIT_S)
    with pytest.raises(grpc.RpcError) as error:
        list(call)
    assert details_of(error.value)[0].reason == "UNKNOWN_MODEL"


@pytest.mark.parametrize("character", ["x", '"', "\u00e9", "\n"])
def test_long_names_fit_into_headers(zoo, character):
    # grpc clients refuse headers of more than 8 KiB, or a little more.
    name = character * 50_000
    with pytest.raises(grpc.RpcError) as error:
        zoo.stub().ModelInfer(request(name, [A]), timeout=LIMIT_S)
    info, _ = details_of(error.value)
    assert info.reason == "UNKNOWN_MODEL" and info.metadata["model"].startswith(character * 10)
    with pytest.raises(grpc.RpcError) as error:
        zoo.stub().ModelInfer(request("add_sub", [(name, "INT32", [16], ROW), B]), timeout=LIMIT_S)
    assert details_of(error.value)[0].reason == "UNEXPECTED_INPUT"


@pytest.fixture
def busy(repository):
    """A server with room for one request behind the one that runs, and an ensemble over it."""
    bound = 'parameters { key: "max_queue_size" value { string_value: "1" } }'
    write_sleep(repository, "nap", bound)
    write(repository, "graph", ensemble(
        "graph", [("A", "FP32", [1])], [("B", "FP32", [1])], [("nap", {"INPUT0": "A"}, {"OUTPUT0": "B"})]))
    write(repository, "patient", config(
        "patient", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 1, extra="dynamic_batching { }"))
    with Server(repository) as server:
        yield server


def fill(server, model, shape=(1,)):
    """Keep a model busy until the first call is canceled, with one more request waiting; return the calls."""
    held = hold(server, nap(model, shape=shape))
    return held, queue(server, server.stub(), nap(model, 0.0, shape), 1)


def test_a_full_queue_says_when_to_come_back(busy):
    held, waiting = fill(busy, "nap")
    with pytest.raises(grpc.RpcError) as error:
        busy.stub().ModelInfer(request("nap", [("INPUT0", "FP32", [1], [0.0])], id="me"), timeout=LIMIT_S)
    assert (error.value.code(), error.value.details()) == (UNAVAILABLE, "[request id: me] Exceeds maximum queue size")
    info, wait = details_of(error.value)
    assert (info.reason, info.metadata["stage"], info.metadata["model"]) == ("QUEUE_FULL", "admission", "nap")
    assert wait is not None and wait >= 0.001
    with pytest.raises(grpc.RpcError) as error:
        busy.stub().ModelInfer(request("graph", [("A", "FP32", [1], [0.0])]), timeout=LIMIT_S)
    info, wait = details_of(error.value)
    assert (info.reason, info.metadata["model"], info.metadata["ensemble"]) == ("QUEUE_FULL", "graph", "graph")
    assert wait is not None
    replies = list(busy.stub().ModelStreamInfer(iter([request("nap", [("INPUT0", "FP32", [1], [0.0])])]), timeout=LIMIT_S))
    parameters = parameters_of(replies[0].infer_response)
    assert parameters["alcedo_status_code"] == "UNAVAILABLE" and parameters["alcedo_reason"] == "QUEUE_FULL"
    assert parameters["alcedo_retry_after_ms"] >= 1
    assert not held.done()
    held.cancel()
    waiting.result()


def test_a_request_that_expired_says_so(busy):
    held, waiting = fill(busy, "patient", (1, 1))
    with pytest.raises(grpc.RpcError) as error:
        busy.stub().ModelInfer(
            request("patient", [("INPUT0", "FP32", [1, 1], [0.0])], parameters={"timeout": 50_000}), timeout=LIMIT_S)
    assert (error.value.code(), error.value.details()) == (UNAVAILABLE, "Request timeout expired")
    info, wait = details_of(error.value)
    assert info.reason in ("REQUEST_EXPIRED", "DEADLINE_UNREACHABLE") and wait is not None
    assert not held.done()
    held.cancel()
    waiting.result()


def test_who_calls_before_models_are_loaded_is_told_to_wait(repository):
    slow = SlowLoad(repository, "slow")
    with Server(repository, mode="none", ready=False) as server:
        server.wait_serving()
        with pytest.raises(grpc.RpcError) as error:
            server.stub().ModelInfer(request("slow", [("INPUT0", "FP32", [1], [0.0])]), timeout=LIMIT_S)
        assert error.value.code() == UNAVAILABLE
        info, wait = details_of(error.value)
        assert info.reason in ("SERVER_NOT_READY", "VERSION_NOT_READY") and wait >= 1
        slow.end()
        server.wait_ready()
        server.stub().ModelInfer(request("slow", [("INPUT0", "FP32", [1], [0.0])]), timeout=LIMIT_S)


def test_the_unmodified_client_sees_code_and_text(zoo):
    tensor = triton.InferInput("INPUT0", [16], "INT32")
    tensor.set_data_from_numpy(np.array(ROW, np.int32))
    with pytest.raises(triton.InferenceServerException) as error:
        zoo.client().infer("nobody", [tensor])
    assert error.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert error.value.message() == "Request for unknown model: 'nobody' is not found"


def test_metadata_calls_have_details_too(zoo):
    with pytest.raises(grpc.RpcError) as error:
        zoo.stub().ModelMetadata(pb.ModelMetadataRequest(name="nobody"), timeout=LIMIT_S)
    assert details_of(error.value)[0].reason == "UNKNOWN_MODEL"
