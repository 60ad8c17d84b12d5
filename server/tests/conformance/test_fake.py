"""The builtin kind `fake`: its cost, its seeded fates, its identity, and what it refuses."""

import json

import grpc
import numpy as np
import pytest

from harness.models import config, write
from harness.server import Server, wait_until
from harness.state import send
from harness.wire import outputs_of, parameters_of, request

LIMIT_S = 60

TENSORS = [("INPUT0", "FP32", [-1]), ("NAMES", "BYTES", [1])], [("OUTPUT0", "FP32", [-1]), ("ECHO", "BYTES", [1])]


def write_fake(repository, name, parameters=None, max_batch_size=8, extra=""):
    """Write a fake model with a numeric and a BYTES tensor."""
    write(repository, name, config(name, "fake", *TENSORS, max_batch_size, parameters, extra))


def ask(model, rows=1, **parameters):
    """Return a request of so many rows."""
    values = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    return request(model, [("INPUT0", "FP32", values.shape, values), ("NAMES", "BYTES", [rows, 1], [b"name"] * rows)],
                   parameters=parameters)


def fates(server, model, count):
    """Send requests one after another; return `.`, `F` or `P` for each."""
    stub, text = server.stub(), ""
    for _ in range(count):
        try:
            stub.ModelInfer(ask(model), timeout=LIMIT_S)
            text += "."
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.INTERNAL
            assert "'fail_rate'" in error.details() or "'panic_rate'" in error.details()
            text += "F" if "'fail_rate'" in error.details() else "P"
    return text


def test_outputs_are_inputs(repository):
    write_fake(repository, "fake", {"fixed_us": "100"})
    with Server(repository) as server:
        reply = server.stub().ModelInfer(ask("fake", 3), timeout=LIMIT_S)
        outputs = outputs_of(reply)
        assert outputs["OUTPUT0"][1] == [3, 2] and outputs["OUTPUT0"][2].tolist() == [0, 1, 2, 3, 4, 5]
        assert outputs["ECHO"][2] == [b"name"] * 3
        assert not reply.parameters


def execution_us(stub, model):
    """Return the time of an execution of eight rows."""
    reply = stub.ModelInfer(ask(model, 8, alcedo_timeline=True), timeout=LIMIT_S)
    told = json.loads(parameters_of(reply)["alcedo_timeline"])
    return told["executed_us"] - told["inputs_us"]


@pytest.mark.parametrize("busy", ["sleep", "spin"])
def test_the_cost_curve(repository, busy):
    for model, parameter in (("fixed", "fixed_us"), ("rows", "per_row_us"), ("cost", "per_cost_us")):
        write_fake(repository, model, {parameter: "5000", "busy": busy})
    with Server(repository) as server:
        stub = server.stub()
        # Never shorter than the curve; longer only by what the machine adds, which may be much each time but not always.
        # Where a model declares no cost, a row costs one.
        for model, curve_us in (("fixed", 5000), ("rows", 40_000), ("cost", 40_000)):
            assert min(execution_us(stub, model) for _ in range(5)) >= curve_us
        wait_until(lambda: execution_us(stub, "fixed") < 20_000, "a fixed time is the same for eight rows")


def test_requests_of_one_batch_share_its_cost(repository):
    write_fake(repository, "fake", {"fixed_us": "20000"}, extra="dynamic_batching { }")
    with Server(repository, env={"TRITONSERVER_DELAY_SCHEDULER": "32"}) as server:
        for call in send(server.stub(), *[ask("fake")] * 32):
            call.result()
        statistics = server.client().get_inference_statistics("fake").model_stats[0]
        assert statistics.execution_count == 4
        taken_s = statistics.inference_stats.compute_infer.ns / 1e9
        # Each request counts the time of its whole batch.
        assert taken_s >= 32 * 0.020


def test_the_same_seed_gives_the_same_fates(repository):
    chances = {"fail_rate": "0.3", "panic_rate": "0.2"}
    write_fake(repository, "one", {**chances, "seed": "7"})
    write_fake(repository, "same", {**chances, "seed": "7", "jitter": "0.9", "fixed_us": "50", "slow_rate": "0.5"})
    write_fake(repository, "other", {**chances, "seed": "8"})
    with Server(repository) as server:
        one, same, other = (fates(server, model, 40) for model in ("one", "same", "other"))
        assert one == same != other
        assert all(fate in one for fate in ".FP"), one
        statistics = server.client().get_inference_statistics("one").model_stats[0].inference_stats
        assert (statistics.success.count, statistics.fail.count) == (one.count("."), 40 - one.count("."))


@pytest.mark.parametrize("name, value, expected", [
    ("fixed_us", "-1", "a number of microseconds"),
    ("jitter", "2", "a number between 0 and 1"),
    ("fail_rate", "often", "a number between 0 and 1"),
    ("slow_factor", "0", "a number between 1 and 1000"),
    ("seed", "1.5", "an integer"),
    ("busy", "idle", "'sleep' or 'spin'"),
    ("device", "cpu", "does not begin with cpu, gpu or cuda"),
    ("device_weight", "0", "an integer between 1 and 1000"),
    ("device_priority", "9", "an integer between 1 (served first) and 8"),
    ("speed", "1", "'fake' has no parameter 'speed'"),
])
def test_bad_values_fail_the_load(repository, name, value, expected):
    write_fake(repository, "fake", {name: value})
    with Server(repository, load=(), mode="explicit") as server:
        with pytest.raises(Exception) as refused:
            server.client().load_model("fake")
        assert expected in str(refused.value) and name in str(refused.value)
