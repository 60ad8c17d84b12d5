"""Two thousand requests at once, each with its own data, on one connection and on fifty."""

import numpy as np
import pytest
from tritonclient.grpc import service_pb2_grpc

from harness.wire import outputs_of, request

LIMIT_S = 180

REQUESTS = 2000


def distinct(number):
    """Return rows that no other request carries."""
    rows = 1 + number % 8
    return np.arange(rows * 16, dtype=np.float32).reshape(rows, 16) + np.float32(1000.0) * number


@pytest.mark.parametrize("connections", [1, 50])
def test_two_thousand_requests_at_once(zoo, connections):
    stubs = [service_pb2_grpc.GRPCInferenceServiceStub(zoo.channel()) for _ in range(connections)]
    calls = []
    for number in range(REQUESTS):
        values = distinct(number)
        message = request("batch_fp32", [("INPUT0", "FP32", values.shape, values)], id=str(number))
        calls.append(stubs[number % connections].ModelInfer.future(message, timeout=LIMIT_S))
    for number, call in enumerate(calls):
        reply = call.result()
        values = distinct(number)
        _, shape, got = outputs_of(reply)["OUTPUT0"]
        assert reply.id == str(number) and shape == list(values.shape)
        assert np.array_equal(got, values.ravel()), f"request {number} got the rows of another"


@pytest.mark.parametrize("model", ["add_sub_fp32", "add_sub_batch"])
def test_batched_arithmetic_keeps_rows_apart(zoo, model):
    stub = zoo.stub()
    datatype, kind = ("FP32", np.float32) if model == "add_sub_fp32" else ("INT32", np.int32)
    calls = []
    for number in range(500):
        rows = 1 + number % 3
        a = np.full((rows, 16), number, kind)
        b = np.arange(rows * 16, dtype=kind).reshape(rows, 16)
        message = request(model, [("INPUT0", datatype, a.shape, a), ("INPUT1", datatype, b.shape, b)])
        calls.append((a, b, stub.ModelInfer.future(message, timeout=LIMIT_S)))
    for a, b, call in calls:
        outputs = outputs_of(call.result())
        assert np.array_equal(outputs["OUTPUT0"][2], (a + b).ravel())
        assert np.array_equal(outputs["OUTPUT1"][2], (a - b).ravel())


def test_ensemble_requests_at_once(zoo):
    stub = zoo.stub()
    calls = []
    for number in range(500):
        a = np.full((1, 16), number, np.int32)
        b = np.full((1, 16), 3 * number, np.int32)
        message = request("chain", [("A", "INT32", a.shape, a), ("B", "INT32", b.shape, b)])
        calls.append((a, b, stub.ModelInfer.future(message, timeout=LIMIT_S)))
    for a, b, call in calls:
        outputs = outputs_of(call.result())
        assert np.array_equal(outputs["DOUBLE_A"][2], 2 * a.ravel())
        assert np.array_equal(outputs["DOUBLE_B"][2], 2 * b.ravel())
