"""Dynamic batching, queue policies and deadlines, as clients and statistics show them."""

import contextlib
import json

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.models import config, ensemble, write, write_identity
from harness.server import LIMIT_S, Server, wait_until
from harness.state import HOLD_S, hold, queue, send, wait_pending
from harness.wire import (
    DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, outputs_of, parameters_of, refused, request)

HELD = "TRITONSERVER_DELAY_SCHEDULER"
ASK = {"alcedo_timeline": True}


def identity(repository, name, batching, max_batch_size=8, parameters=None, dims=(-1,), kind="identity"):
    """Write a batching model."""
    return write(repository, name, config(
        name, kind, [("INPUT0", "FP32", list(dims))], [("OUTPUT0", "FP32", list(dims))], max_batch_size, parameters,
        f"dynamic_batching {{ {batching} }}"))


def ask(model, rows=1, width=1, value=0.0, **parameters):
    """Return a request of `rows` rows whose elements are all `value`; a `sleep` model takes so many seconds for it."""
    return request(model, [("INPUT0", "FP32", [rows, width], [value] * (rows * width))], id=str(value),
                   parameters=parameters)


def statistics(stub, model):
    """Return the model's statistics."""
    return stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S).model_stats[0]


def batches(stub, model):
    """Return {batch size: executions}."""
    return {each.batch_size: each.compute_infer.count for each in statistics(stub, model).batch_stats}


def failures(stub, model):
    """Return the number of failed requests."""
    return statistics(stub, model).inference_stats.fail.count


@contextlib.contextmanager
def held(tmp_path, requests, *flags):
    """Run a server whose batchers start when so many requests wait."""
    with Server(tmp_path, *flags, env={HELD: str(requests)}) as server:
        stub = server.stub()
        stub.server = server
        yield stub


def all_answered(calls):
    """Every call has its own value."""
    for call in calls:
        reply = call.result()
        assert set(outputs_of(reply)["OUTPUT0"][2].tolist()) == {float(reply.id)}


@pytest.mark.parametrize("batcher", ["default", "compat"])
def test_what_arrives_while_an_instance_runs_shares_a_batch(tmp_path, batcher):
    identity(tmp_path, "m", "", parameters={"batcher": batcher}, kind="sleep")
    with Server(tmp_path) as server:
        stub = server.stub()
        first = hold(server, ask("m", value=HOLD_S))
        calls = send(stub, *[ask("m", value=index / 1024) for index in range(6)])
        wait_pending(server, "m", 6)
        assert not first.done()
        first.cancel()
        all_answered(calls)
        assert sum(size * count for size, count in batches(stub, "m").items()) == 6
        # One batch is made ready while another runs; the others wait for each other, and never run one by one.
        assert statistics(stub, "m").execution_count <= 2


def test_compat_sends_the_best_preferred_prefix(tmp_path):
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 500000", parameters={"batcher": "compat"})
    with held(tmp_path, 6) as stub:
        all_answered(send(stub, *[ask("m", value=float(index)) for index in range(6)]))
        assert batches(stub, "m") == {2: 1, 4: 1}


def test_the_default_batcher_takes_all_that_fits(tmp_path):
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ]")
    with held(tmp_path, 6) as stub:
        all_answered(send(stub, *[ask("m", value=float(index)) for index in range(6)]))
        assert batches(stub, "m") == {6: 1}


def test_a_preferred_size_ends_the_wait(tmp_path):
    # The delay is far longer than the test may take.
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 600000000", parameters={"batcher": "compat"})
    with Server(tmp_path) as server:
        stub = server.stub()
        all_answered(send(stub, *[ask("m", value=float(index)) for index in range(4)]))
        assert batches(stub, "m") == {4: 1}


def test_requests_are_never_split(tmp_path):
    identity(tmp_path, "m", "")
    with held(tmp_path, 4) as stub:
        all_answered(send(stub, *[ask("m", rows=3, value=float(index)) for index in range(4)]))
        assert batches(stub, "m") == {6: 2}


@pytest.mark.parametrize("batcher, expected", [("default", {3: 1, 1: 1}), ("compat", {2: 1, 1: 2})])
def test_other_shapes_cut_a_batch_only_in_compat(tmp_path, batcher, expected):
    identity(tmp_path, "m", "", parameters={"batcher": batcher, "execute_delay_ms": 50})
    with held(tmp_path, 4) as stub:
        calls = []
        for index, width in enumerate([2, 2, 5, 2]):
            message = ask("m", width=width, value=float(index))
            # Their order in the queue is what is tested. The last one starts the batcher.
            calls += [queue(stub.server, stub, message, index + 1)] if index < 3 else send(stub, message)
        all_answered(calls)
        assert batches(stub, "m") == expected


def test_batches_are_cut_by_cost_too(tmp_path):
    identity(tmp_path, "m", "", parameters={"max_batch_tokens": 100, "batch_cost": "elements:INPUT0"}, max_batch_size=64)
    with held(tmp_path, 6) as stub:
        all_answered(send(stub, *[ask("m", width=40, value=float(index)) for index in range(6)]))
        assert batches(stub, "m") == {2: 3}


def batch_of(call):
    """Return the number of the batch that a call was answered from; batches are numbered as they are formed."""
    return json.loads(parameters_of(call.result())["alcedo_timeline"])["batch"]["id"]


def in_order(calls):
    """Return the values of calls in the order in which they ran: answers may overtake each other on their way."""
    all_answered(calls)
    return [float(call.result().id) for call in sorted(calls, key=batch_of)]


def queue_all(stub, messages):
    """Queue messages one after another; the last one starts a batcher that is held until all wait."""
    calls = [queue(stub.server, stub, message, count) for count, message in enumerate(messages[:-1], 1)]
    return calls + send(stub, messages[-1])


def test_higher_priorities_go_first(tmp_path):
    identity(tmp_path, "m", "priority_levels: 3 default_priority_level: 2", max_batch_size=1, parameters={"execute_delay_ms": 30})
    with held(tmp_path, 6) as stub:
        levels = [3, 2, 0, 1, 1, 3]
        messages = [ask("m", value=float(index), priority=level, **ASK) for index, level in enumerate(levels)]
        assert in_order(queue_all(stub, messages)) == [3.0, 4.0, 1.0, 2.0, 0.0, 5.0]


def test_preserved_order(tmp_path):
    # Without it the third request would join the first, whose shape it has.
    identity(tmp_path, "m", "preserve_ordering: true", max_batch_size=4, parameters={"execute_delay_ms": 100})
    with held(tmp_path, 6) as stub:
        widths = [2, 5, 2, 2, 5, 5]
        messages = [ask("m", width=width, value=float(index), **ASK) for index, width in enumerate(widths)]
        assert in_order(queue_all(stub, messages))[:2] == [0.0, 1.0]
        assert batches(stub, "m") == {1: 2, 2: 2}


def test_a_full_queue_refuses_at_once(tmp_path):
    identity(tmp_path, "m", "default_queue_policy { max_queue_size: 3 }")
    with held(tmp_path, 100) as stub:
        calls = [queue(stub.server, stub, ask("m", value=float(index)), index + 1) for index in range(3)]
        with refused(UNAVAILABLE, r"^\[request id: 9.0\] Exceeds maximum queue size$"):
            stub.ModelInfer(ask("m", value=9.0), timeout=LIMIT_S)
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


def test_levels_have_limits_of_their_own(tmp_path):
    identity(tmp_path, "m", "priority_levels: 2 default_priority_level: 2 default_queue_policy { max_queue_size: 2 } "
             "priority_queue_policy { key: 1 value: { max_queue_size: 1 } }")
    with held(tmp_path, 100) as stub:
        calls = [queue(stub.server, stub, ask("m", value=float(count), priority=count % 2), count) for count in range(1, 3)]
        calls.append(queue(stub.server, stub, ask("m", value=3.0, priority=7), 3))
        for priority in (0, 1, 2):
            with refused(UNAVAILABLE, "Exceeds maximum queue size"):
                stub.ModelInfer(ask("m", value=9.0, priority=priority), timeout=LIMIT_S)
        for call in calls:
            call.cancel()


@pytest.mark.parametrize("batching", [True, False])
def test_a_request_whose_time_is_over_is_refused_while_the_instance_is_busy(tmp_path, batching):
    policy = "dynamic_batching { default_queue_policy { default_timeout_microseconds: 60000000 } }" if batching else ""
    write(tmp_path, "m", config("m", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 8, extra=policy))
    with Server(tmp_path) as server:
        stub = server.stub()
        busy = hold(server, ask("m", value=HOLD_S))
        with refused(UNAVAILABLE, "^Request timeout expired$"):
            stub.ModelInfer(ask("m", value=2.0, timeout=40_000), timeout=LIMIT_S)
        assert not busy.done()
        assert failures(stub, "m") == 1
        busy.cancel()
        all_answered(send(stub, ask("m", value=0.0)))
        # Neither the one that was refused nor the one whose client left was an inference.
        assert batches(stub, "m") == {1: 1} and failures(stub, "m") == 2


def test_delayed_requests_run_last(tmp_path):
    identity(tmp_path, "m", "default_queue_policy { timeout_action: DELAY allow_timeout_override: true "
             "default_timeout_microseconds: 600000000 }", max_batch_size=1, kind="sleep")
    with Server(tmp_path) as server:
        stub = server.stub()
        stub.server = server
        first = hold(server, ask("m", value=HOLD_S))
        # While the first runs, the second's time passes; it is served all the same, behind the third and fourth.
        messages = [ask("m", value=1 / 1024, timeout=1, **ASK), ask("m", value=2 / 1024, **ASK), ask("m", value=3 / 1024, **ASK)]
        calls = [queue(server, stub, message, count) for count, message in enumerate(messages, 1)]
        assert not first.done()
        first.cancel()
        assert in_order(calls) == [2 / 1024, 3 / 1024, 1 / 1024]


def test_what_cannot_be_ready_in_time_is_refused_on_arrival(tmp_path):
    identity(tmp_path, "m", "", max_batch_size=1, parameters={"execute_delay_ms": 400})
    with Server(tmp_path) as server:
        stub = server.stub()
        all_answered(send(stub, *[ask("m", value=float(index)) for index in range(10)]))
        executed = statistics(stub, "m").execution_count

        def refusal():
            # On a machine that stands still for a while the client's own clock may come before the server's answer.
            (call,) = send(stub, ask("m", value=99.0), timeout=0.15)
            return call if call.code() != DEADLINE_EXCEEDED else None

        with refused(UNAVAILABLE, "^Request timeout expired$"):
            wait_until(refusal, "the server answers before the client's time is over").result()
        assert statistics(stub, "m").execution_count == executed


def test_what_was_canceled_in_the_queue_is_not_executed(tmp_path):
    identity(tmp_path, "m", "", max_batch_size=1, kind="sleep")
    with Server(tmp_path) as server:
        stub = server.stub()
        first = hold(server, ask("m", value=HOLD_S))
        canceled = send(stub, *[ask("m", value=index / 1024) for index in range(1, 9)])
        last = send(stub, ask("m", value=9 / 1024))
        wait_pending(server, "m", 9)
        for call in canceled:
            call.cancel()
        # Those that wait are gone at once, but for one in the batch that is made ready.
        wait_until(lambda: failures(stub, "m") >= 7, "their cancels are noticed")
        assert not first.done()
        first.cancel()
        all_answered(last)
        wait_until(lambda: failures(stub, "m") == 9, "all are counted")
        counts = statistics(stub, "m")
        # At most the one that was prepared behind the first had begun to run before its cancel came.
        assert counts.inference_stats.success.count == 1 and counts.execution_count <= 2


def test_a_deadline_holds_for_the_whole_ensemble(tmp_path):
    identity(tmp_path, "slow", "", kind="sleep")
    identity(tmp_path, "after", "")
    write(tmp_path, "both", ensemble("both", [("INPUT0", "FP32", [-1])], [("OUTPUT0", "FP32", [-1])], [
        ("slow", {"INPUT0": "INPUT0"}, {"OUTPUT0": "between"}), ("after", {"INPUT0": "between"}, {"OUTPUT0": "OUTPUT0"})], 8))
    with Server(tmp_path) as server:
        stub = server.stub()
        with refused(DEADLINE_EXCEEDED):
            stub.ModelInfer(ask("both", value=HOLD_S), timeout=1.0)
        with refused(UNAVAILABLE, "^in ensemble 'both', Request timeout expired$"):
            stub.ModelInfer(ask("both", value=0.5, timeout=200_000), timeout=LIMIT_S)
        wait_until(lambda: failures(stub, "both") == 2, "both are counted")
        assert statistics(stub, "after").execution_count == 0
        all_answered(send(stub, ask("both", value=0.25)))


@pytest.mark.parametrize("parameters, pattern", [
    ({"batcher": "quick"}, "batcher.*quick"), ({"max_batch_tokens": "0"}, "max_batch_tokens"),
    ({"max_batch_tokens": "9", "batch_cost": "elements:NOBODY"}, "NOBODY")])
def test_settings_that_mean_nothing_fail_the_load(tmp_path, parameters, pattern):
    identity(tmp_path, "m", "", parameters=parameters)
    with Server(tmp_path, load=()) as server:
        with refused(INTERNAL, pattern):
            server.stub().RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=LIMIT_S)


@pytest.mark.parametrize("batching", ["dynamic_batching { max_queue_delay_microseconds: 600000000 }", "dynamic_batching { }"])
def test_a_version_that_goes_holds_nothing_back(tmp_path, batching):
    # Both the hold and the delay are far longer than the test may take.
    write_identity(tmp_path, "m", max_batch_size=8, extra=batching, parameters={"batcher": "compat"})
    with held(tmp_path, 100) as stub:
        call = queue(stub.server, stub, ask("m", value=5.0), 1)
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="m"), timeout=LIMIT_S)
        all_answered([call])


def test_a_timeout_action_that_is_none_fails_the_load(tmp_path):
    identity(tmp_path, "m", "default_queue_policy { timeout_action: 7 }")
    with Server(tmp_path, load=()) as server:
        with refused(INTERNAL, "timeout_action.*REJECT or DELAY.*7"):
            server.stub().RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="m"), timeout=LIMIT_S)
