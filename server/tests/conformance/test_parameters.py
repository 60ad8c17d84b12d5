"""Request and response parameters, priority, timeout and sequence parameters."""

import pytest
import tritonclient.grpc as triton
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from harness.wire import INVALID, outputs_of, parameters_of, refused, request

LIMIT_S = 60

ONE = [("INPUT0", "FP32", [1], [1.0])]


def echoed(stub, parameters):
    """Return what the model saw of the request parameters."""
    outputs = outputs_of(stub.ModelInfer(request("parameters", ONE, parameters=parameters), timeout=LIMIT_S))
    return dict(zip(outputs["key"][2], outputs["value"][2]))


def test_custom_parameters_of_every_type(stub):
    given = {"flag": True, "off": False, "count": -7, "name": "value with spaces", "ratio": 123.123, "empty": ""}
    assert echoed(stub, given) == {
        b"flag": b"True", b"off": b"False", b"count": b"-7", b"name": b"value with spaces", b"ratio": b"123.123",
        b"empty": b""}


def test_no_parameters(stub):
    assert echoed(stub, {}) == {}


def test_tritonclient_parameters(client):
    tensor = triton.InferInput("INPUT0", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    result = client.infer("parameters", [tensor], parameters={"a": 1, "b": "two", "c": True, "d": 0.5},
                          client_timeout=LIMIT_S)
    got = dict(zip(result.as_numpy("key").tolist(), result.as_numpy("value").tolist()))
    assert got == {b"a": b"1", b"b": b"two", b"c": b"True", b"d": b"0.5"}


def test_reserved_parameters_are_not_handed_to_the_model(stub):
    given = {"priority": 1, "timeout": 60_000_000, "sequence_id": 5, "sequence_start": True, "sequence_end": True,
             "triton_enable_empty_final_response": False, "mine": "yes"}
    assert echoed(stub, given) == {b"mine": b"yes"}


@pytest.mark.parametrize("value", [pb.InferParameter(uint64_param=3)])
def test_custom_uint64_is_refused(stub, value):
    with refused(INVALID, r"invalid value type for 'mine' parameter, expected int64_param, bool_param, or "
                          r"string_param\."):
        stub.ModelInfer(request("parameters", ONE, parameters={"mine": value}), timeout=LIMIT_S)


@pytest.mark.parametrize("key", ["triton_", "triton_mine", "triton_final_response"])
def test_triton_keys_are_reserved(stub, key):
    with refused(INVALID, r"parameter keys starting with 'triton_' are reserved for Triton usage"):
        stub.ModelInfer(request("parameters", ONE, parameters={key: 1}), timeout=LIMIT_S)


def test_empty_final_response_may_be_asked_for_over_unary(stub):
    parameters = {"triton_enable_empty_final_response": True}
    stub.ModelInfer(request("identity_fp32", ONE, parameters=parameters), timeout=LIMIT_S)


WRONG_TYPES = [
    ("sequence_id", True, r"invalid value type for 'sequence_id' parameter, expected int64_param or string_param\."),
    ("sequence_start", 1, r"invalid value type for 'sequence_start' parameter, expected bool_param"),
    ("sequence_end", "x", r"invalid value type for 'sequence_end' parameter, expected bool_param"),
    ("priority", "high", r"invalid value type for 'priority' parameter, expected "),
    ("timeout", "soon", r"invalid value type for 'timeout' parameter, expected int64_param"),
    ("triton_enable_empty_final_response", 1,
     r"invalid value type for 'triton_enable_empty_final_response' parameter, expected bool_param"),
]


@pytest.mark.parametrize("key, value, pattern", WRONG_TYPES, ids=[row[0] for row in WRONG_TYPES])
def test_known_parameter_of_the_wrong_type(stub, key, value, pattern):
    with refused(INVALID, pattern):
        stub.ModelInfer(request("identity_fp32", ONE, parameters={key: value}), timeout=LIMIT_S)


@pytest.mark.parametrize("value", [0, 1, 99, pb.InferParameter(uint64_param=2)])
def test_priority_is_accepted(stub, value):
    stub.ModelInfer(request("batch_fp32", [("INPUT0", "FP32", [1, 1], [1.0])], parameters={"priority": value}),
                    timeout=LIMIT_S)


def test_negative_priority_is_refused(stub):
    with refused(INVALID, "priority"):
        stub.ModelInfer(request("batch_fp32", [("INPUT0", "FP32", [1, 1], [1.0])], parameters={"priority": -1}),
                        timeout=LIMIT_S)


def test_tritonclient_priority_and_timeout(client):
    tensor = triton.InferInput("INPUT0", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.ones((1, 1), np.float32))
    result = client.infer("batch_fp32", [tensor], priority=1, timeout=60_000_000, client_timeout=LIMIT_S)
    assert result.as_numpy("OUTPUT0").tolist() == [[1.0]]


@pytest.mark.parametrize("sequence", [5, "a name"])
def test_tritonclient_sequence_parameters(client, sequence):
    tensor = triton.InferInput("INPUT0", [1], "FP32")
    tensor.set_data_from_numpy(np.ones(1, np.float32))
    result = client.infer("identity_fp32", [tensor], sequence_id=sequence, sequence_start=True, sequence_end=True,
                          client_timeout=LIMIT_S)
    assert result.as_numpy("OUTPUT0").tolist() == [1.0]


def test_response_parameters_of_every_type(stub):
    reply = stub.ModelInfer(request("identity_fp32", ONE), timeout=LIMIT_S)
    got = parameters_of(reply)
    assert {key: got[key] for key in ("param0", "param1", "param2", "param3")} == {
        "param0": "an example string parameter", "param1": 42, "param2": False, "param3": 123.123}
