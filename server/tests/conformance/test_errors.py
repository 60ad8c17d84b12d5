"""The error catalogue: for each situation the gRPC code and the text that clients match on."""

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.models import config, write
from harness.server import Server, wait_until
from harness.state import hold, nap, pending, send
from harness.wire import (
    INTERNAL, INVALID, NOT_FOUND, UNAVAILABLE, UNIMPLEMENTED, refused, request)

LIMIT_S = 60

SIXTEEN = list(range(16))
NONE_KNOWN = r"\[request id: <id_unknown>\] "


def add_sub(*, model="add_sub", shape=(16,), b_shape=None, version="", outputs=(), **more):
    """Return a request to an add_sub model, right unless told otherwise."""
    count = 1
    for dim in shape:
        count *= dim
    inputs = [("INPUT0", "INT32", shape, [1] * count), ("INPUT1", "INT32", b_shape or shape, [1] * count)]
    return request(model, inputs, outputs, version, **more)


def one(model, datatype, shape, values, **more):
    """Return a request with INPUT0 alone."""
    return request(model, [("INPUT0", datatype, shape, values)], **more)


def with_raw(message, raw):
    """Add an entry of raw contents to a request."""
    message.raw_input_contents.append(raw)
    return message


def with_contents(message, index, field, values):
    """Add typed contents to an input."""
    getattr(message.inputs[index].contents, field).extend(values)
    return message


# situation: (request, code, pattern of the whole text)
CATALOGUE = {
    "unknown model name": (
        one("nobody", "FP32", [1], [1.0]), INVALID, r"^Request for unknown model: 'nobody' is not found$"),
    "empty model name": (one("", "FP32", [1], [1.0]), INVALID, r"^Request for unknown model: '' is not found$"),
    "known model, version missing": (
        add_sub(version="9"), NOT_FOUND, r"^Request for unknown model: 'add_sub' version 9 is not found$"),
    "version that is no number": (
        add_sub(version="one"), INVALID,
        r"^failed to get model version from specified version string 'one' \(details: .*\), version should be an "
        r"integral value > 0$"),
    "version beyond 64 bits": (
        add_sub(version="99999999999999999999"), INVALID,
        r"^failed to get model version from specified version string '99999999999999999999'"),
    "version zero": (
        add_sub(version="0"), INVALID,
        r"^invalid model version specified '0' , version should be an integral value > 0$"),
    "too few inputs": (
        request("add_sub", [("INPUT0", "INT32", [16], SIXTEEN)]), INVALID,
        rf"^{NONE_KNOWN}expected 2 inputs but got 1 inputs for model 'add_sub'\. Got input\(s\) \['INPUT0'\], but "
        r"missing required input\(s\) \['INPUT1'\]\. Please provide all required input\(s\)\.$"),
    "no inputs": (
        request("add_sub"), INVALID,
        rf"^{NONE_KNOWN}expected 2 inputs but got 0 inputs for model 'add_sub'\. Got input\(s\) \[\], but missing "
        r"required input\(s\) \['INPUT0','INPUT1'\]\. Please provide all required input\(s\)\.$"),
    "too many inputs": (
        request("add_sub", [(name, "INT32", [16], SIXTEEN) for name in ("INPUT0", "INPUT1", "INPUT2")]), INVALID,
        r"expected 2 inputs but got 3 inputs for model 'add_sub'|unexpected inference input 'INPUT2' for model"),
    "too few inputs with optional ones": (
        request("two_inputs"), INVALID,
        rf"^{NONE_KNOWN}expected number of inputs between 1 and 2 but got 0 inputs for model 'two_inputs'\. "),
    "right count, wrong name": (
        request("add_sub", [("INPUT0", "INT32", [16], SIXTEEN), ("INPUTX", "INT32", [16], SIXTEEN)]), INVALID,
        r"^unexpected inference input 'INPUTX' for model 'add_sub'$"),
    "unknown output": (
        add_sub(outputs=["OUTPUT0", "OUTPUTX"]), INVALID,
        r"^unexpected inference output 'OUTPUTX' for model 'add_sub'$"),
    "unknown output is found before wrong inputs": (
        request("add_sub", [("INPUT0", "FP32", [3], [1.0] * 3)], ["OUTPUTX"]), INVALID,
        r"^unexpected inference output 'OUTPUTX' for model 'add_sub'$"),
    "duplicate input": (
        request("add_sub", [("INPUT0", "INT32", [16], SIXTEEN)] * 2), INVALID,
        rf"^{NONE_KNOWN}input 'INPUT0' already exists in request$"),
    "duplicate output": (
        add_sub(outputs=["OUTPUT0", "OUTPUT0"]), INVALID,
        rf"^{NONE_KNOWN}output 'OUTPUT0' already exists in request$"),
    "no shape, batching model": (
        one("batch_fp32", "FP32", [], [1.0]), INVALID,
        rf"^{NONE_KNOWN}input 'INPUT0' has no shape but model requires batch dimension for 'batch_fp32'$"),
    "inputs with different batch": (
        add_sub(model="add_sub_any", shape=(2, 2, 2), b_shape=(4, 1, 2)), INVALID,
        rf"^{NONE_KNOWN}input 'INPUT1' batch size does not match other inputs for 'add_sub_any'$"),
    "batch too big": (
        one("batch_fp32", "FP32", [9, 1], [1.0] * 9), INVALID,
        rf"^{NONE_KNOWN}inference request batch-size must be <= 8 for 'batch_fp32'$"),
    "wrong datatype": (
        one("identity_fp32", "INT32", [1], [1]), INVALID,
        rf"^{NONE_KNOWN}inference input 'INPUT0' data-type is 'INT32', but model 'identity_fp32' expects 'FP32'$"),
    "datatype that does not exist": (
        request("identity_fp32", [("INPUT0", "FLOAT", [1], b"\0\0\0\0")]), INVALID, r"INPUT0|FLOAT"),
    "wrong shape": (
        add_sub(shape=(17,)), INVALID,
        rf"^{NONE_KNOWN}unexpected shape for input 'INPUT0' for model 'add_sub'\. Expected \[16\], got \[17\]\. ?$"),
    "wrong shape, batching model": (
        add_sub(model="add_sub_batch", shape=(1, 17)), INVALID,
        rf"^{NONE_KNOWN}unexpected shape for input 'INPUT0' for model 'add_sub_batch'\. Expected \[-1,16\], got "
        r"\[1,17\]\. NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension"),
    "wrong rank": (
        one("rank_2", "INT32", [1, 2, 3], [1] * 6), INVALID,
        r"unexpected shape for input 'INPUT0' for model 'rank_2'\. Expected \[-1,-1\], got \[1,2,3\]"),
    "dimension of -1": (
        request("identity_fp32", [("INPUT0", "FP32", [-1], b"")]), INVALID,
        rf"^{NONE_KNOWN}All input dimensions should be specified for input 'INPUT0' for model 'identity_fp32', got "
        r"\[-1\]"),
    "negative dimension": (
        request("identity_fp32", [("INPUT0", "FP32", [-2], b"")]), INVALID, r"contains an invalid dimension"),
    "element count overflows": (
        request("rank_4", [("INPUT0", "INT32", [1 << 31, 1 << 31, 1 << 31, 2], b"")]), INVALID,
        r"causes total element count to exceed maximum size of|byte size overflow for input"),
    "byte size overflows": (
        request("rank_2", [("INPUT0", "INT32", [1 << 31, 1 << 31], b"")]), INVALID,
        r"byte size overflow for input|causes total element count to exceed maximum size of"),
    "largest dimension": (
        request("identity_fp32", [("INPUT0", "FP32", [(1 << 63) - 1], b"")]), INVALID,
        r"byte size overflow for input|causes total element count to exceed maximum size of"),
    "byte size too large": (
        request("identity_fp32", [("INPUT0", "FP32", [8], b"\0" * 40)]), INVALID,
        rf"^{NONE_KNOWN}input byte size mismatch for input 'INPUT0' for model 'identity_fp32'\. Expected 32, got 40$"),
    "byte size too small": (
        request("identity_fp32", [("INPUT0", "FP32", [8], b"\0" * 31)]), INVALID,
        r"input byte size mismatch for input 'INPUT0' for model 'identity_fp32'\. Expected 32, got 31$"),
    "typed contents too short": (
        with_contents(request("identity_fp32", [("INPUT0", "FP32", [3], None)]), 0, "fp32_contents", [1.0, 2.0]),
        INVALID, r"input byte size mismatch for input 'INPUT0' for model 'identity_fp32'\. Expected 12, got 8"),
    "BYTES too few elements": (
        one("identity_bytes", "BYTES", [3], [b"a", b"b"]), INVALID,
        rf"^{NONE_KNOWN}expected 3 string elements for inference input 'INPUT0' for model 'identity_bytes', got 2$"),
    "BYTES too many": (
        one("identity_bytes", "BYTES", [2], [b"a"] * 5), INVALID,
        rf"^{NONE_KNOWN}unexpected number of string elements 3 for inference input 'INPUT0' for model "
        r"'identity_bytes', expecting 2$"),
    "BYTES cut length": (
        request("identity_bytes", [("INPUT0", "BYTES", [2], b"\1\0\0\0a\1\0")]), INVALID,
        rf"^{NONE_KNOWN}incomplete string length indicator for inference input 'INPUT0' for model 'identity_bytes', "
        r"expecting 4 bytes but only 2 bytes available\. "),
    "BYTES cut element": (
        request("identity_bytes", [("INPUT0", "BYTES", [1], b"\5\0\0\0abc")]), INVALID, r"INPUT0.*identity_bytes"),
    "no data": (
        request("identity_fp32", [("INPUT0", "FP32", [1], None)]), INVALID,
        r"^unable to find data for input tensor 'INPUT0' for model 'identity_fp32' in request\.$"),
    "contents and raw both": (
        with_contents(one("identity_fp32", "FP32", [1], [1.0]), 0, "fp32_contents", [1.0]), INVALID,
        r"^contents field must not be specified when using raw_input_contents for 'INPUT0' for model "
        r"'identity_fp32'$"),
    "fewer raw contents than inputs": (
        request("add_sub", [("INPUT0", "INT32", [16], SIXTEEN), ("INPUT1", "INT32", [16], None)]), INVALID,
        r"^unable to find data for input tensor 'INPUT1' for model 'add_sub' in request\.$"),
    "more raw contents than inputs": (
        with_raw(one("identity_fp32", "FP32", [1], [1.0]), b""), INVALID,
        r"^expected 1 entries in raw_input_contents for the inputs of model 'identity_fp32', got 2$"),
    "typed contents in the wrong field": (
        with_contents(request("identity_fp32", [("INPUT0", "FP32", [1], None)]), 0, "int_contents", [1]), INVALID,
        r"^unexpected explicit tensor data for input tensor 'INPUT0' for model 'identity_fp32' of type 'INT32', "
        r"expected datatype 'FP32'$"),
    "two typed fields": (
        with_contents(with_contents(request("identity_fp32", [("INPUT0", "FP32", [1], None)]), 0,
                                    "fp32_contents", [1.0]), 0, "int_contents", [1]), INVALID,
        r"unexpected explicit tensor data for input tensor 'INPUT0' for model 'identity_fp32'"),
    "decoupled model over unary": (
        request("repeat", [("IN", "INT32", [1], [1]), ("DELAY", "UINT32", [1], [0]), ("WAIT", "UINT32", [1], [0])]),
        UNIMPLEMENTED, r"^ModelInfer RPC doesn't support models with decoupled transaction policy$"),
    "error of the backend": (
        request("repeat_unary", [("IN", "INT32", [1], [1]), ("DELAY", "UINT32", [2], [0, 0]),
                                 ("WAIT", "UINT32", [1], [0])]),
        INVALID, r"expected IN and DELAY shape to match, got \[1\] and \[2\]"),
    "text that is no number": (
        request("add_sub_bytes", [("INPUT0", "BYTES", [4], [b"1", b"x", b"3", b"4"]),
                                  ("INPUT1", "BYTES", [4], [b"1", b"2", b"3", b"4"])]),
        None, r"x"),
}


@pytest.mark.parametrize("situation", CATALOGUE)
def test_catalogue(stub, situation):
    message, code, pattern = CATALOGUE[situation]
    if code is None:
        with pytest.raises(grpc.RpcError, match=pattern) as caught:
            stub.ModelInfer(message, timeout=LIMIT_S)
        assert caught.value.code() in (INVALID, INTERNAL)
        return
    with refused(code, pattern):
        stub.ModelInfer(message, timeout=LIMIT_S)


def test_error_names_the_request(stub):
    with refused(INVALID, r"^\[request id: mine\] inference request batch-size must be <= 8 for 'batch_fp32'$"):
        stub.ModelInfer(one("batch_fp32", "FP32", [9, 1], [1.0] * 9, id="mine"), timeout=LIMIT_S)


@pytest.mark.parametrize("character", ["\n", " ", "%", "\u4e2d", "x"])
def test_long_error_texts_reach_the_client(stub, character):
    # Clients refuse headers beyond 8 KiB at random: the code of the refusal must not be lost with them.
    message = request("identity_fp32", [("INPUT0", "FP32", [2], [1.0])], id=character * 20_000)
    for _ in range(20):
        with refused(INVALID, r"more bytes\)$"):
            stub.ModelInfer(message, timeout=LIMIT_S)


def test_first_wrong_input_in_request_order_is_reported(stub):
    message = request("add_sub", [("INPUT1", "FP32", [16], [1.0] * 16), ("INPUT0", "FP32", [16], [1.0] * 16)])
    with refused(INVALID, r"inference input 'INPUT1' data-type is 'FP32'"):
        stub.ModelInfer(message, timeout=LIMIT_S)


STATISTICS = {
    "unknown model": (("nobody", ""), INVALID, r"^requested model 'nobody' is not available$"),
    "unknown model and version": (("nobody", "1"), INVALID, r"requested model 'nobody' is not available|"
                                                            r"requested model version is not available"),
    "unknown version": (("add_sub", "9"), INVALID, r"^requested model version is not available for model 'add_sub'$"),
}


@pytest.mark.parametrize("situation", STATISTICS)
def test_statistics(stub, situation):
    (name, version), code, pattern = STATISTICS[situation]
    with refused(code, pattern):
        stub.ModelStatistics(pb.ModelStatisticsRequest(name=name, version=version), timeout=LIMIT_S)


LOOKUPS = {
    "ModelMetadata": pb.ModelMetadataRequest,
    "ModelConfig": pb.ModelConfigRequest,
}


@pytest.mark.parametrize("rpc", LOOKUPS)
def test_lookups(stub, rpc):
    call, kind = getattr(stub, rpc), LOOKUPS[rpc]
    with refused(INVALID, r"^Request for unknown model: 'nobody' is not found$"):
        call(kind(name="nobody"), timeout=LIMIT_S)
    with refused(NOT_FOUND, r"^Request for unknown model: 'add_sub' version 9 is not found$"):
        call(kind(name="add_sub", version="9"), timeout=LIMIT_S)
    with refused(INVALID, r"^failed to get model version from specified version string 'x'"):
        call(kind(name="add_sub", version="x"), timeout=LIMIT_S)


UNBUILT = {
    "TraceSetting": pb.TraceSettingRequest(),
    "LogSettings": pb.LogSettingsRequest(),
}


@pytest.mark.parametrize("rpc", UNBUILT)
def test_rpcs_that_are_not_built_name_themselves(stub, rpc):
    with refused(UNIMPLEMENTED, rpc):
        getattr(stub, rpc)(UNBUILT[rpc], timeout=LIMIT_S)


def test_no_ready_version_and_version_not_ready(repository):
    write(repository, "broken", config(
        "broken", "no_such_kind", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])]))
    with Server(repository, load=()) as server:
        stub = server.stub()
        with refused(INVALID, r"^load failed for model 'broken': version 1 is at UNAVAILABLE state: "):
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="broken"), timeout=LIMIT_S)
        message = one("broken", "FP32", [1], [1.0])
        with refused(NOT_FOUND, r"^Request for unknown model: 'broken' has no available versions$"):
            stub.ModelInfer(message, timeout=LIMIT_S)
        message.model_version = "1"
        with refused(UNAVAILABLE, r"^Request for unknown model: 'broken' version 1 is not at ready state$"):
            stub.ModelInfer(message, timeout=LIMIT_S)


def test_full_queue(repository):
    write(repository, "small_queue", config(
        "small_queue", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 1,
        extra="dynamic_batching { default_queue_policy { max_queue_size: 2 } }"))
    with Server(repository) as server:
        stub = server.stub()
        held = hold(server, nap("small_queue", shape=(1, 1)))
        flood = send(stub, *[nap("small_queue", 0.05, (1, 1), id=f"r{number}") for number in range(40)])
        # Two may wait in the queue, and one in the batch that is made ready behind the one that runs.
        wait_until(lambda: sum(call.done() for call in flood) >= 37, "what does not fit is refused")
        assert not held.done()
        held.cancel()
        refusals = [future.exception() for future in flood if future.exception() is not None]
        assert refusals, "forty requests at once fit into a queue of two"
        assert len(refusals) < 40, "no request was answered"
        for refusal in refusals:
            with refused(UNAVAILABLE, r"^\[request id: r\d+\] Exceeds maximum queue size$"):
                raise refusal
        stub.ModelInfer(one("small_queue", "FP32", [1, 1], [0.0]), timeout=LIMIT_S)


# situation: (scheduling, request parameters). A request of priority 1 waits as long as it must.
TIMEOUTS = {
    "of the queue policy": ("dynamic_batching { priority_levels: 2 default_priority_level: 2 priority_queue_policy { "
                            "key: 1 value: { } } default_queue_policy { default_timeout_microseconds: 100000 } }", {}),
    "of the request": ("", {"timeout": 100_000}),
    "of the request, with a batcher": ("dynamic_batching { }", {"timeout": 100_000}),
}


@pytest.mark.parametrize("case", TIMEOUTS)
def test_queue_timeout(repository, case):
    extra, parameters = TIMEOUTS[case]
    write(repository, "patient", config(
        "patient", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 1, extra=extra))
    with Server(repository) as server:
        stub = server.stub()
        held = hold(server, nap("patient", shape=(1, 1), parameters={"priority": 1}))
        calls = send(stub, *[nap("patient", 0.0, (1, 1), parameters=parameters) for _ in range(5)])
        wait_until(lambda: sum(call.done() for call in calls) + pending(server, "patient") == 5, "all have come")
        # With a batcher one of them may wait in the batch that is prepared: it is refused when the instance is free.
        wait_until(lambda: sum(call.done() for call in calls) >= 4, "their time ends while the instance is busy")
        # It came after all of them, so when its time is over theirs is.
        with refused(UNAVAILABLE, r"^Request timeout expired$"):
            stub.ModelInfer(nap("patient", 0.0, (1, 1), parameters=parameters), timeout=LIMIT_S)
        assert not held.done(), "the timeouts were noticed only when the instance was free"
        held.cancel()
        for call in calls:
            with refused(UNAVAILABLE, r"^Request timeout expired$"):
                call.result()
        stub.ModelInfer(nap("patient", 0.0, (1, 1), parameters={"priority": 1}), timeout=LIMIT_S)


def test_message_that_is_no_protobuf(zoo):
    call = zoo.channel().unary_unary("/inference.GRPCInferenceService/ModelInfer")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff\xff", timeout=LIMIT_S)
    assert caught.value.code() in (INTERNAL, INVALID)


def test_method_that_does_not_exist(zoo):
    call = zoo.channel().unary_unary("/inference.GRPCInferenceService/ModelDream")
    with refused(UNIMPLEMENTED):
        call(b"", timeout=LIMIT_S)
