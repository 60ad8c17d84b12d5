"""The unmodified tritonclient in each of its styles: sync, async, aio."""

import asyncio
import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from harness.models import write_sleep
from harness.server import Server, wait_until
from harness.state import hold, nap, send
from harness.wire import DEADLINE_EXCEEDED, outputs_of, pb, refused

LIMIT_S = 60


def inputs_of(kind, name="INPUT0", rows=1, value=1.0):
    """Return one FP32 input of a client module."""
    tensor = kind.InferInput(name, [rows, 1], "FP32")
    tensor.set_data_from_numpy(np.full((rows, 1), value, np.float32))
    return [tensor]


def test_sync(client):
    result = client.infer("batch_fp32", inputs_of(triton, rows=3, value=4.0), request_id="id",
                          outputs=[triton.InferRequestedOutput("OUTPUT0")], client_timeout=LIMIT_S)
    assert result.as_numpy("OUTPUT0").tolist() == [[4.0]] * 3
    assert result.get_response().id == "id"


def test_async(client):
    results = queue.Queue()
    for number in range(100):
        client.async_infer("batch_fp32", inputs_of(triton, value=float(number)),
                           lambda result, error, number=number: results.put((number, result, error)),
                           client_timeout=LIMIT_S)
    for _ in range(100):
        number, result, error = results.get(timeout=LIMIT_S)
        assert error is None and result.as_numpy("OUTPUT0").tolist() == [[float(number)]]


def test_async_error(client):
    results = queue.Queue()
    client.async_infer("nobody", inputs_of(triton), lambda result, error: results.put((result, error)),
                       client_timeout=LIMIT_S)
    result, error = results.get(timeout=LIMIT_S)
    assert result is None and error.status() == "StatusCode.INVALID_ARGUMENT"


def test_async_cancel(client, stub):
    results = queue.Queue()
    tensor = triton.InferInput("INPUT0", [1], "FP32")
    # Far longer than the test may take: the cancel always comes first.
    tensor.set_data_from_numpy(np.array([3000.0], np.float32))
    call = client.async_infer("sleep", [tensor], lambda result, error: results.put((result, error)),
                              client_timeout=LIMIT_S)
    call.cancel()
    result, error = results.get(timeout=LIMIT_S)
    assert result is None and "CANCELLED" in str(error.status())
    tensor.set_data_from_numpy(np.array([0.0], np.float32))
    assert client.infer("sleep", [tensor], client_timeout=LIMIT_S).as_numpy("OUTPUT0").tolist() == [0.0]


def test_aio(zoo):
    async def run():
        async with triton_aio.InferenceServerClient(zoo.url) as client:
            assert await client.is_server_live() and await client.is_server_ready()
            assert await client.is_model_ready("batch_fp32")
            results = await asyncio.gather(*[
                client.infer("batch_fp32", inputs_of(triton_aio, value=float(number)), client_timeout=LIMIT_S)
                for number in range(50)])
            assert [result.as_numpy("OUTPUT0").tolist() for result in results] == [[[float(n)]] for n in range(50)]
            with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
                await client.infer("nobody", inputs_of(triton_aio))
    asyncio.run(run())


def test_aio_stream(zoo):
    async def run():
        async def messages():
            for number in range(3):
                yield {"model_name": "batch_fp32", "inputs": inputs_of(triton_aio, value=float(number)),
                       "request_id": str(number)}
        async with triton_aio.InferenceServerClient(zoo.url) as client:
            got = []
            async for result, error in client.stream_infer(messages(), stream_timeout=LIMIT_S):
                assert error is None
                got.append((result.get_response().id, result.as_numpy("OUTPUT0").tolist()))
            return got
    assert asyncio.run(run()) == [(str(number), [[float(number)]]) for number in range(3)]


@pytest.fixture
def sleeper(repository):
    """A server whose model has never run, and so refuses no request for what it has learned of its executions."""
    write_sleep(repository, "sleep")
    with Server(repository) as server:
        yield server


def counts(stub, model):
    """Return [inference count, execution count, successes, failures] of a model."""
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S).model_stats
    inference = statistics.inference_stats
    return [statistics.inference_count, statistics.execution_count, inference.success.count, inference.fail.count]


def test_a_request_whose_client_left_is_not_executed(sleeper):
    stub = sleeper.stub()
    # The first request holds the only instance; the second leaves the queue when its client's deadline ends.
    first = hold(sleeper, nap("sleep"))
    with refused(DEADLINE_EXCEEDED):
        stub.ModelInfer(nap("sleep"), timeout=1.0)
    assert not first.done()
    wait_until(lambda: counts(stub, "sleep")[3] == 1, "the cancel is counted")
    first.cancel()
    # Were the second to be executed, the third would wait far longer than its client does.
    third = stub.ModelInfer(nap("sleep", 0.0), timeout=LIMIT_S)
    assert third.raw_output_contents
    # What ends with its client is no inference and no execution.
    assert counts(stub, "sleep") == [1, 1, 1, 2]


def test_every_deadline_ends_as_a_deadline(sleeper):
    # The server sees the client's deadline too and may be the first to notice its end: the code must be the same.
    stub = sleeper.stub()
    busy = hold(sleeper, nap("sleep"))
    calls = [call for number in range(50) for call in send(stub, nap("sleep", 0.0), timeout=0.1 + 0.01 * number)]
    assert {call.code() for call in calls} == {DEADLINE_EXCEEDED}
    assert not busy.done()
    busy.cancel()
    reply = stub.ModelInfer(nap("sleep", 0.0), timeout=LIMIT_S)
    assert outputs_of(reply)["OUTPUT0"][2].tolist() == [0.0]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests(client, algorithm):
    result = client.infer("batch_fp32", inputs_of(triton, value=2.0), compression_algorithm=algorithm,
                          client_timeout=LIMIT_S)
    assert result.as_numpy("OUTPUT0").tolist() == [[2.0]]


def test_closed_connection_leaves_the_server_alone(zoo, stub):
    channel = zoo.channel()
    from tritonclient.grpc import service_pb2_grpc
    doomed = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    calls = [doomed.ModelInfer.future(nap("sleep")) for _ in range(5)]
    channel.close()
    assert all(isinstance(call.exception(), grpc.RpcError) or call.cancelled() for call in calls)
    stub.ModelInfer(nap("sleep", 0.0), timeout=LIMIT_S)
