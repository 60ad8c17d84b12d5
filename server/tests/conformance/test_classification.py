"""The classification extension: classes instead of scores."""

import numpy as np
import pytest
import tritonclient.grpc as triton

from harness.wire import INVALID, outputs_of, parameter, pb, refused, request

LIMIT_S = 60

ROWS = [0.1, 0.4, 0.2, 0.3, 9.0, -1.0, 8.5, 7.0]


def classes(stub, model, shape, values, count, datatype="FP32"):
    """Ask for classes and return (shape, strings)."""
    message = request(model, [("INPUT0", datatype, shape, values)], [("OUTPUT0", {"classification": count})])
    got_datatype, got_shape, got = outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"]
    assert got_datatype == "BYTES"
    return got_shape, got


def test_with_labels_for_each_row_of_a_batch(stub):
    shape, got = classes(stub, "classes_batch", [2, 4], ROWS, 2)
    assert shape == [2, 2]
    assert got == [b"0.400000:1:one", b"0.300000:3:three", b"9.000000:0:zero", b"8.500000:2:two"]


def test_over_the_whole_tensor_without_batching(stub):
    shape, got = classes(stub, "classes_flat", [6], [1.0, 5.0, 3.0, 4.0, 9.0, 2.0], 3)
    assert shape == [3]
    # The fifth element has no label.
    assert got == [b"9.000000:4", b"5.000000:1:one", b"4.000000:3:three"]


def test_without_labels(stub):
    shape, got = classes(stub, "classes_plain", [1, 4], [7, -2, 9, 0], 4, "INT32")
    assert shape == [1, 4]
    assert [each.split(b":")[1] for each in got] == [b"2", b"0", b"3", b"1"]
    assert all(len(each.split(b":")) == 2 for each in got)


def test_more_classes_than_elements(stub):
    shape, got = classes(stub, "classes_batch", [1, 4], ROWS[:4], 100)
    assert (shape, len(got)) == ([1, 4], 4)


def test_zero_classes_means_off(stub):
    message = request("classes_batch", [("INPUT0", "FP32", [1, 4], ROWS[:4])], [("OUTPUT0", {"classification": 0})])
    assert outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"][0] == "FP32"


def test_tritonclient_classification(client):
    tensor = triton.InferInput("INPUT0", [2, 4], "FP32")
    tensor.set_data_from_numpy(np.array(ROWS, np.float32).reshape(2, 4))
    wanted = triton.InferRequestedOutput("OUTPUT0", class_count=1)
    result = client.infer("classes_batch", [tensor], outputs=[wanted], client_timeout=LIMIT_S)
    assert result.as_numpy("OUTPUT0").tolist() == [[b"0.400000:1:one"], [b"9.000000:0:zero"]]


def test_negative_count_is_refused(stub):
    with refused(INVALID, r"invalid value for 'classification' parameter, expected >= 0"):
        classes(stub, "classes_batch", [1, 4], ROWS[:4], -1)


def test_count_of_the_wrong_type_is_refused(stub):
    with refused(INVALID, r"invalid value type for 'classification' parameter, expected int64_param"):
        classes(stub, "classes_batch", [1, 4], ROWS[:4], "two")


@pytest.mark.parametrize("datatype, values", [
    ("BYTES", [b"1"]), ("BOOL", [True]), ("FP16", [1.0]), ("BF16", [0x3f80])])
def test_datatypes_without_an_order_are_refused(stub, datatype, values):
    with refused(INVALID, rf"class result not available for output due to unsupported type '.*{datatype}'"):
        classes(stub, f"identity_{datatype.lower()}", [1], values, 1, datatype)


def test_too_many_elements_are_refused(stub):
    with refused(INVALID, r"classification output tensor too large"):
        classes(stub, "identity_fp32", [1_000_001], np.zeros(1_000_001, np.float32), 1)


def test_shared_memory_and_classification_exclude_each_other(stub):
    message = request("classes_batch", [("INPUT0", "FP32", [1, 4], ROWS[:4])], [("OUTPUT0", {"classification": 1})])
    message.outputs[0].parameters["shared_memory_region"].CopyFrom(parameter("region"))
    message.outputs[0].parameters["shared_memory_byte_size"].CopyFrom(pb.InferParameter(int64_param=64))
    with refused(INVALID, r"output can't set both 'shared_memory_region' and 'classification'"):
        stub.ModelInfer(message, timeout=LIMIT_S)
