"""Every datatype, raw and typed, in and out, and the shapes that tensors may have."""

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.models import DATATYPES
from harness.wire import CONTENTS, INVALID, NUMPY, outputs_of, refused, request

LIMIT_S = 60

NUMERIC = [datatype for datatype in DATATYPES if datatype != "BYTES"]


def samples(datatype):
    """Return values of a datatype: its extremes and some in between."""
    if datatype == "BYTES":
        return [b"plain", b"", b"\x00", b"a\x00b\x00", "Größe 机器 😀".encode(), b"\xff\xfe not UTF-8", b"\n"]
    if datatype == "BOOL":
        return [True, False, False, True]
    kind = NUMPY[datatype]
    if np.issubdtype(kind, np.integer):
        limits = np.iinfo(kind)
        return [limits.min, limits.max, 0, 1, 42]
    limits = np.finfo(kind)
    return [limits.min, limits.max, limits.tiny, -0.0, 1.5, np.inf, -np.inf, -42.25]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_raw_contents_echo(stub, datatype):
    values = samples(datatype)
    message = request(f"identity_{datatype.lower()}", [("INPUT0", datatype, [len(values)], values)])
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    assert reply.raw_output_contents[0] == message.raw_input_contents[0]
    assert (reply.outputs[0].name, reply.outputs[0].datatype) == ("OUTPUT0", datatype)
    assert list(reply.outputs[0].shape) == [len(values)]


@pytest.mark.parametrize("datatype", DATATYPES)
def test_tritonclient_echo(client, datatype):
    values = samples(datatype)
    if datatype == "BF16":
        array = np.array([1.5, -2.0, 0.0, 256.0, np.inf], ml_dtypes.bfloat16)
    elif datatype == "BYTES":
        array = np.array(values, dtype=np.object_)
    else:
        array = np.array(values, dtype=NUMPY[datatype])
    tensor = triton.InferInput("INPUT0", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    result = client.infer(f"identity_{datatype.lower()}", [tensor], client_timeout=LIMIT_S)
    got = result.as_numpy("OUTPUT0")
    assert got.shape == array.shape
    assert list(got) == list(array)
    assert result.get_output("OUTPUT0").datatype == datatype


@pytest.mark.parametrize("datatype", [datatype for datatype in DATATYPES if datatype in CONTENTS])
def test_typed_contents_echo(stub, datatype):
    values = samples(datatype)
    name = f"identity_{datatype.lower()}"
    typed = stub.ModelInfer(request(name, [("INPUT0", datatype, [len(values)], values)], raw=False), timeout=LIMIT_S)
    raw = stub.ModelInfer(request(name, [("INPUT0", datatype, [len(values)], values)]), timeout=LIMIT_S)
    # The reply always carries raw tensors, whatever the request carried.
    assert typed == raw
    assert not typed.outputs[0].HasField("contents")


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_precision_has_no_typed_contents(stub, datatype):
    message = request(f"identity_{datatype.lower()}", [("INPUT0", datatype, [1], None)])
    message.inputs[0].contents.fp32_contents.append(1.0)
    with refused(INVALID, "INPUT0"):
        stub.ModelInfer(message, timeout=LIMIT_S)


def test_typed_small_integers_keep_their_low_bytes(stub):
    message = request("identity_int8", [("INPUT0", "INT8", [3], None)])
    message.inputs[0].contents.int_contents.extend([300, -1, 128])
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    assert list(outputs_of(reply)["OUTPUT0"][2]) == [44, -1, -128]


def test_typed_contents_of_several_inputs(stub):
    values = list(range(16))
    message = request("add_sub", [("INPUT0", "INT32", [16], values), ("INPUT1", "INT32", [16], values)], raw=False)
    outputs = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))
    assert list(outputs["OUTPUT0"][2]) == [2 * value for value in values]
    assert list(outputs["OUTPUT1"][2]) == [0] * 16


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 200_000, 3_000_000])
def test_large_bytes_elements(stub, size):
    element = bytes(range(256)) * (size // 256) + b"\x00" * (size % 256)
    values = [b"", element, b"end"]
    reply = stub.ModelInfer(request("identity_bytes", [("INPUT0", "BYTES", [3], values)]), timeout=LIMIT_S)
    assert outputs_of(reply)["OUTPUT0"][2] == values


def test_sixteen_mebibytes(stub):
    values = np.arange(4 << 20, dtype=np.float32)
    reply = stub.ModelInfer(request("identity_fp32", [("INPUT0", "FP32", [len(values)], values)]), timeout=LIMIT_S)
    assert np.array_equal(outputs_of(reply)["OUTPUT0"][2], values)


@pytest.mark.parametrize("datatype", DATATYPES)
def test_no_elements(stub, datatype):
    message = request(f"identity_{datatype.lower()}", [("INPUT0", datatype, [0], [])])
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    assert (list(reply.outputs[0].shape), list(reply.raw_output_contents)) == ([0], [b""])


@pytest.mark.parametrize("shape", [[0, 3], [3, 0], [0, 0]])
def test_a_dimension_of_zero(stub, shape):
    reply = stub.ModelInfer(request("rank_2", [("INPUT0", "INT32", shape, [])]), timeout=LIMIT_S)
    assert (list(reply.outputs[0].shape), list(reply.raw_output_contents)) == (shape, [b""])


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_rows_without_elements(stub, rows):
    reply = stub.ModelInfer(request("batch_fp32", [("INPUT0", "FP32", [rows, 0], [])]), timeout=LIMIT_S)
    assert list(reply.outputs[0].shape) == [rows, 0]


@pytest.mark.parametrize("rank", range(1, 9))
def test_every_rank(stub, rank):
    shape = [2] * rank
    values = np.arange(2**rank, dtype=np.int32)
    reply = stub.ModelInfer(request(f"rank_{rank}", [("INPUT0", "INT32", shape, values)]), timeout=LIMIT_S)
    datatype, got_shape, got = outputs_of(reply)["OUTPUT0"]
    assert (datatype, got_shape, list(got)) == ("INT32", shape, list(values))


def test_rank_zero_is_refused_by_a_model_of_rank_one(stub):
    with refused(INVALID, r"unexpected shape for input 'INPUT0' for model 'rank_1'\. Expected \[-1\], got \[\]"):
        stub.ModelInfer(request("rank_1", [("INPUT0", "INT32", [], [7])]), timeout=LIMIT_S)


def test_scalar_by_reshape(stub):
    reply = stub.ModelInfer(request("scalar", [("INPUT0", "FP32", [3, 1], [1.0, 2.0, 3.0])]), timeout=LIMIT_S)
    assert outputs_of(reply)["OUTPUT0"][1] == [3, 1]
    assert list(outputs_of(reply)["OUTPUT0"][2]) == [1.0, 2.0, 3.0]


def test_reshape_of_input_and_output(stub):
    values = list(range(16))
    reply = stub.ModelInfer(request("reshape_flat", [("INPUT0", "INT32", [2, 8], values)]), timeout=LIMIT_S)
    _, shape, got = outputs_of(reply)["OUTPUT0"]
    assert (shape, list(got)) == ([4, 4], values)


@pytest.mark.parametrize("middle", [0, 1, 5])
def test_reshape_with_a_variable_dimension(stub, middle):
    values = list(range(2 * 4 * middle * 2))
    message = request("reshape_wild", [("INPUT0", "INT32", [2, 4, middle, 2], values)])
    _, shape, got = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"]
    assert (shape, list(got)) == ([2, 2, 2, middle, 2], values)


def test_reshape_refuses_the_shape_of_the_backend(stub):
    with refused(INVALID, r"unexpected shape for input 'INPUT0' for model 'reshape_flat'\. Expected \[2,8\], got \[16\]"):
        stub.ModelInfer(request("reshape_flat", [("INPUT0", "INT32", [16], list(range(16)))]), timeout=LIMIT_S)


def test_optional_input_given(stub):
    message = request("two_inputs", [("A", "FP32", [1, 2], [1.0, 2.0]), ("B", "INT32", [1, 2], [3, 4])])
    outputs = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))
    assert list(outputs["X"][2]) == [1.0, 2.0] and list(outputs["Y"][2]) == [3, 4]


def test_optional_input_missing_gives_zeros(stub):
    message = request("two_inputs", [("A", "FP32", [3, 2], [1.0] * 6)])
    outputs = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))
    assert outputs["Y"][:2] == ("INT32", [3, 2]) and list(outputs["Y"][2]) == [0] * 6


def test_optional_input_missing_and_output_omitted(stub):
    message = request("two_inputs_omit", [("A", "FP32", [1, 2], [1.0, 2.0])])
    assert set(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))) == {"X"}


def test_required_input_missing(stub):
    with refused(INVALID, r"expected number of inputs between 1 and 2 but got 0 inputs for model 'two_inputs'\. "
                          r"Got input\(s\) \[\], but missing required input\(s\) \['A'\]"):
        stub.ModelInfer(request("two_inputs"), timeout=LIMIT_S)


@pytest.mark.parametrize("left, right", [("INT32", "INT32"), ("FP32", "FP32")])
def test_add_sub(stub, left, right):
    name = {"INT32": "add_sub_batch", "FP32": "add_sub_fp32"}[left]
    a, b = np.arange(32, dtype=NUMPY[left]), np.full(32, 3, NUMPY[right])
    outputs = outputs_of(stub.ModelInfer(
        request(name, [("INPUT0", left, [2, 16], a), ("INPUT1", right, [2, 16], b)]), timeout=LIMIT_S))
    assert np.array_equal(outputs["OUTPUT0"][2], a + b) and np.array_equal(outputs["OUTPUT1"][2], a - b)


def test_sub_add(stub):
    a, b = list(range(16)), [5] * 16
    outputs = outputs_of(stub.ModelInfer(
        request("sub_add", [("INPUT0", "INT32", [16], a), ("INPUT1", "INT32", [16], b)]), timeout=LIMIT_S))
    assert list(outputs["OUTPUT0"][2]) == [value - 5 for value in a]
    assert list(outputs["OUTPUT1"][2]) == [value + 5 for value in a]


def test_add_sub_of_decimal_text(stub):
    message = request("add_sub_bytes", [
        ("INPUT0", "BYTES", [4], [b"1", b"20", b"-3", b"0"]), ("INPUT1", "BYTES", [4], [b"2", b"5", b"4", b"0"])])
    outputs = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))
    assert outputs["OUTPUT0"][2] == [b"3", b"25", b"1", b"0"]
    assert outputs["OUTPUT1"][2] == [b"-1", b"15", b"-7", b"0"]


def test_an_output_that_the_model_leaves_out_is_absent(stub):
    message = request("add_sub_omit", [("INPUT0", "INT32", [4], [1] * 4), ("INPUT1", "INT32", [4], [2] * 4)])
    assert set(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))) == {"OUTPUT0"}


@pytest.mark.parametrize("wanted", [["OUTPUT0"], ["OUTPUT1"], ["OUTPUT1", "OUTPUT0"], []])
def test_requested_outputs(stub, wanted):
    inputs = [("INPUT0", "INT32", [16], [2] * 16), ("INPUT1", "INT32", [16], [1] * 16)]
    reply = stub.ModelInfer(request("add_sub", inputs, wanted), timeout=LIMIT_S)
    outputs = outputs_of(reply)
    assert set(outputs) == set(wanted or ["OUTPUT0", "OUTPUT1"])
    expected = {"OUTPUT0": 3, "OUTPUT1": 1}
    assert all(list(values) == [expected[name]] * 16 for name, (_, _, values) in outputs.items())


def test_reply_repeats_id_name_and_actual_version(stub):
    message = request("identity_fp32", [("INPUT0", "FP32", [1], [1.0])], id="a / 😀 id")
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    assert (reply.id, reply.model_name, reply.model_version) == ("a / 😀 id", "identity_fp32", "1")
    assert stub.ModelInfer(request("identity_fp32", [("INPUT0", "FP32", [1], [1.0])]), timeout=LIMIT_S).id == ""


def test_unknown_fields_of_a_request_are_skipped(stub):
    message = request("identity_fp32", [("INPUT0", "FP32", [1], [1.0])]).SerializeToString()
    # Field 1000, length-delimited, three bytes.
    extended = pb.ModelInferRequest.FromString(message + b"\xc2\x3e\x03abc")
    assert outputs_of(stub.ModelInfer(extended, timeout=LIMIT_S))["OUTPUT0"][1] == [1]
