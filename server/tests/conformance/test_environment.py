"""Variables of the environment that Triton's own tests use."""

import time

import pytest

from harness.models import write_identity
from harness.server import Server
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


@pytest.mark.parametrize("text", ["many", "-1", "1e3"])
def test_a_hold_that_is_no_number_is_named_in_the_log(tmp_path, text):
    write_identity(tmp_path, "identity", max_batch_size=8, extra="dynamic_batching { }")
    with Server(tmp_path, env={"TRITONSERVER_DELAY_SCHEDULER": text}) as server:
        server.stub().ModelInfer(request("identity", [("INPUT0", "FP32", [1, 1], [1])]), timeout=LIMIT_S)
        assert "TRITONSERVER_DELAY_SCHEDULER" in server.log() and text in server.log()


def test_replies_other_than_inference_are_late(tmp_path):
    write_identity(tmp_path, "identity")
    with Server(tmp_path, env={"TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC": "2"}) as server:
        begun = time.monotonic()
        assert server.client().is_server_live()
        late = time.monotonic() - begun
        begun = time.monotonic()
        server.stub().ModelInfer(request("identity", [("INPUT0", "FP32", [1], [1])]), timeout=LIMIT_S)
        inference = time.monotonic() - begun
        # A ratio within one run: how fast the machine is does not matter.
        assert late >= 2 > inference
