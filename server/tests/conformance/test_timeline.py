"""The timeline that a request may ask for: where its time went, and why it waited."""

import json

import pytest

from harness.models import ensemble, write, write_identity, write_repeat, write_sleep
from harness.server import Server
from harness.state import hold, nap, send, wait_pending
from harness.wire import INVALID, parameters_of, refused, request

LIMIT_S = 60
ASK = {"alcedo_timeline": True}
MOMENTS = ["received_us", "decoded_us", "queued_us", "formed_us", "started_us", "inputs_us", "executed_us", "outputs_us",
           "encoded_us"]


def timeline(reply):
    return json.loads(parameters_of(reply)["alcedo_timeline"])


def check(told):
    """Moments ascend from 0, the waits add up to the wait, and no part is more than the whole."""
    moments = [told[key] for key in MOMENTS if key in told]
    assert moments == sorted(moments) and moments[0] >= 0, told
    assert abs(sum(told["waited_us"].values()) - (told["started_us"] - told["queued_us"])) < 0.01, told
    assert all(value >= 0 for value in told["waited_us"].values()), told


def one(model, rows=None, parameters=None):
    shape = [4] if rows is None else [rows, 4]
    return request(model, [("INPUT0", "FP32", shape, [1.0] * 4 * (rows or 1))], parameters=parameters)


@pytest.fixture(name="server")
def fixture_server(repository):
    write_identity(repository, "plain")
    write_identity(repository, "batched", max_batch_size=8, extra="dynamic_batching { }")
    write_identity(repository, "waiting", max_batch_size=8, extra="""
        dynamic_batching { preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 60000000 }
        parameters { key: "batcher" value: { string_value: "compat" } }""")
    write_sleep(repository, "sleep")
    write_repeat(repository, "repeat")
    write(repository, "chain", ensemble(
        "chain", [("IN", "FP32", [-1])], [("OUT", "FP32", [-1])],
        [("plain", {"INPUT0": "IN"}, {"OUTPUT0": "between"}), ("plain", {"INPUT0": "between"}, {"OUTPUT0": "OUT"})]))
    write(repository, "nested", ensemble(
        "nested", [("IN", "FP32", [-1])], [("OUT", "FP32", [-1])], [("chain", {"IN": "IN"}, {"OUT": "OUT"})]))
    with Server(repository) as server:
        yield server


def test_only_who_asks_gets_it(server):
    stub = server.stub()
    assert "alcedo_timeline" not in parameters_of(stub.ModelInfer(one("plain"), timeout=LIMIT_S))
    silent = one("plain", parameters={"alcedo_timeline": False})
    assert "alcedo_timeline" not in parameters_of(stub.ModelInfer(silent, timeout=LIMIT_S))
    with refused(INVALID, "alcedo_timeline"):
        stub.ModelInfer(one("plain", parameters={"alcedo_timeline": "yes"}), timeout=LIMIT_S)


@pytest.mark.parametrize("model,rows", [("plain", None), ("batched", 3)])
def test_moments_of_a_request(server, model, rows):
    told = timeline(server.stub().ModelInfer(one(model, rows, ASK), timeout=LIMIT_S))
    check(told)
    assert set(MOMENTS) <= set(told), told
    assert (told["model"], told["version"], told["source"], told["instance"]) == (model, 1, "execution", f"{model}#0")
    assert (told["batch"]["rows"], told["batch"]["mates"], told["batch"]["cost"]) == (rows or 1, 0, rows or 1)
    assert told["batch"]["id"] >= 1


def test_mates_share_a_batch(server):
    stub = server.stub()
    calls = [stub.ModelInfer.future(one("waiting", 2, ASK), timeout=LIMIT_S) for _ in range(2)]
    first, second = [timeline(call.result()) for call in calls]
    check(first)
    check(second)
    assert first["batch"] == second["batch"]
    assert (first["batch"]["rows"], first["batch"]["mates"]) == (4, 1)
    assert first["batch"]["trigger"] in ("preferred", "full"), first


def test_a_request_behind_another_waited_for_the_instance(server):
    held = hold(server, nap("sleep"))
    behind = send(server.stub(), *[nap("sleep", 0.0, parameters=ASK) for _ in range(2)])
    wait_pending(server, "sleep", 2)
    held.cancel()
    told = [timeline(call.result()) for call in behind]
    for each in told:
        check(each)
        waited = each["waited_us"]
        assert waited["instance"] > 0.5 * sum(waited.values()) > 0, told


def test_a_stream_tells_it_once(server):
    asked = request("repeat", [("IN", "INT32", [3], [1, 2, 3]), ("DELAY", "UINT32", [3], [0] * 3),
                               ("WAIT", "UINT32", [1], [0])], parameters=ASK)
    replies = [reply.infer_response for reply in server.stub().ModelStreamInfer(iter([asked]))]
    told = ["alcedo_timeline" in parameters_of(reply) for reply in replies]
    assert told == [True, False, False]
    check(timeline(replies[0]))


def test_an_ensemble_tells_of_its_steps(server):
    asked = request("nested", [("IN", "FP32", [1], [1.0])], parameters=ASK)
    told = timeline(server.stub().ModelInfer(asked, timeout=LIMIT_S))
    (inner,) = told["steps"]
    assert (told["model"], inner["model"]) == ("nested", "chain")
    assert [step["model"] for step in inner["steps"]] == ["plain", "plain"]
    for step in inner["steps"]:
        check(step)
    first, second = inner["steps"]
    order = [told["received_us"], told["queued_us"], inner["received_us"], first["received_us"], first["outputs_us"],
             second["received_us"], second["outputs_us"], inner["outputs_us"], told["outputs_us"], told["encoded_us"]]
    assert order == sorted(order), told
    # The parts are no more than the whole.
    assert sum(step["outputs_us"] - step["received_us"] for step in inner["steps"]) <= told["encoded_us"]
