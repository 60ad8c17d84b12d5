"""Variables of the environment that Triton's own tests use."""

import time

import pytest

from harness.models import write_identity
from harness.server import Server
from harness.state import wait_pending
from harness.wire import outputs_of, request

LIMIT_S = 60


def test_a_batcher_is_held_until_enough_requests_wait(tmp_path):
    write_identity(tmp_path, "identity", max_batch_size=8, extra="dynamic_batching { }")
    with Server(tmp_path, env={"TRITONSERVER_DELAY_SCHEDULER": "5"}) as server:
        stub = server.stub()
        calls = [stub.ModelInfer.future(request("identity", [("INPUT0", "FP32", [1, 1], [index])], id=str(index)), timeout=LIMIT_S)
                 for index in range(5)]
        for index, call in enumerate(calls):
            assert outputs_of(call.result())["OUTPUT0"][2].tolist() == [float(index)]
        statistics = server.client().get_inference_statistics("identity").model_stats[0]
        assert {each.batch_size: each.compute_infer.count for each in statistics.batch_stats} == {5: 1}


def test_a_held_batcher_is_released_when_the_server_stops(tmp_path):
    write_identity(tmp_path, "identity", max_batch_size=8, extra="dynamic_batching { }")
    with Server(tmp_path, env={"TRITONSERVER_DELAY_SCHEDULER": "5"}) as server:
        stub = server.stub()
        calls = [stub.ModelInfer.future(request("identity", [("INPUT0", "FP32", [1, 1], [index])], id=str(index)), timeout=LIMIT_S)
                 for index in range(3)]
        wait_pending(server, "identity", 3)
        server.terminate()
        for index, call in enumerate(calls):
            assert outputs_of(call.result())["OUTPUT0"][2].tolist() == [float(index)]
        assert server.wait_exit() == 0


@pytest.mark.parametrize("text", ["many", "-1", "1e3"])
def test_a_hold_that_is_no_number_is_named_in_the_log(tmp_path, text):
    write_identity(tmp_path, "identity", max_batch_size=8, extra="dynamic_batching { }")
    with Server(tmp_path, env={"TRITONSERVER_DELAY_SCHEDULER": text}) as server:
        server.stub().ModelInfer(request("identity", [("INPUT0", "FP32", [1, 1], [1])]), timeout=LIMIT_S)
        assert "TRITONSERVER_DELAY_SCHEDULER" in server.log() and text in server.log()


def test_replies_other_than_inference_are_late(tmp_path):
    write_identity(tmp_path, "identity")
    with Server(tmp_path, env={"TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC": "2"}) as server:
        def seconds(call):
            begun = time.monotonic()
            call()
            return time.monotonic() - begun

        late = seconds(lambda: server.client().is_server_live())
        infer = lambda: server.stub().ModelInfer(request("identity", [("INPUT0", "FP32", [1], [1])]), timeout=LIMIT_S)
        # The best of some: a machine that stands still for a while delays no reply by design.
        assert late >= 2 > min(seconds(infer) for _ in range(5))
