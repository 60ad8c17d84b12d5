"""Dynamic batching, queue policies and deadlines, as clients and statistics show them."""

import contextlib
import threading
import urllib.request

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.models import config, ensemble, write, write_identity
from harness.server import LIMIT_S, Server, wait_until
from harness.wire import DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, outputs_of, refused, request

HELD = "TRITONSERVER_DELAY_SCHEDULER"


def identity(repository, name, batching, max_batch_size=8, parameters=None, dims=(-1,), kind="identity"):
    """Write a batching model."""
    return write(repository, name, config(
        name, kind, [("INPUT0", "FP32", list(dims))], [("OUTPUT0", "FP32", list(dims))], max_batch_size, parameters,
        f"dynamic_batching {{ {batching} }}"))


def ask(model, rows=1, width=1, value=0.0, **parameters):
    """Return a request of `rows` rows whose elements are all `value`."""
    return request(model, [("INPUT0", "FP32", [rows, width], [value] * (rows * width))], id=str(value),
                   parameters=parameters)


def send(stub, message, timeout=LIMIT_S):
    """Start a call."""
    return stub.ModelInfer.future(message, timeout=timeout)


def gauge(server, name):
    """Return the sum of a gauge's series."""
    page = urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=LIMIT_S).read().decode()
    lines = [line for line in page.splitlines() if line.startswith((name + "{", name + " "))]
    assert lines, f"there is no {name}"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def waiting(server):
    """Return how many requests wait in the queues of the server."""
    return gauge(server, "nv_inference_pending_request_count")


def running(server, stub, message):
    """Start a call and wait until it runs, on a server that has nothing else to do."""
    call = send(stub, message)
    wait_until(lambda: gauge(server, "alcedo_requests_in_flight") == 1 and waiting(server) == 0, "the request runs")
    return call


def queue(server, stub, message, count):
    """Start a call and wait until it is one of `count` that wait: calls on one connection may overtake each other."""
    call = send(stub, message)
    wait_until(lambda: waiting(server) == count, f"{count} requests wait")
    return call


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
    identity(tmp_path, "m", "", parameters={"execute_delay_ms": 500, "batcher": batcher})
    with Server(tmp_path) as server:
        stub = server.stub()
        first = send(stub, ask("m", value=100.0))
        calls = [send(stub, ask("m", value=float(index))) for index in range(6)]
        all_answered([first, *calls])
        assert sum(size * count for size, count in batches(stub, "m").items()) == 7
        # The first may have met others on its way in; the others never run one by one.
        assert statistics(stub, "m").execution_count <= 3


def test_compat_sends_the_best_preferred_prefix(tmp_path):
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 500000", parameters={"batcher": "compat"})
    with held(tmp_path, 6) as stub:
        all_answered([send(stub, ask("m", value=float(index))) for index in range(6)])
        assert batches(stub, "m") == {2: 1, 4: 1}


def test_the_default_batcher_takes_all_that_fits(tmp_path):
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ]")
    with held(tmp_path, 6) as stub:
        all_answered([send(stub, ask("m", value=float(index))) for index in range(6)])
        assert batches(stub, "m") == {6: 1}


def test_a_preferred_size_ends_the_wait(tmp_path):
    # The delay is far longer than the test may take.
    identity(tmp_path, "m", "preferred_batch_size: [ 4 ] max_queue_delay_microseconds: 600000000", parameters={"batcher": "compat"})
    with Server(tmp_path) as server:
        stub = server.stub()
        all_answered([send(stub, ask("m", value=float(index))) for index in range(4)])
        assert batches(stub, "m") == {4: 1}


def test_requests_are_never_split(tmp_path):
    identity(tmp_path, "m", "")
    with held(tmp_path, 4) as stub:
        all_answered([send(stub, ask("m", rows=3, value=float(index))) for index in range(4)])
        assert batches(stub, "m") == {6: 2}


@pytest.mark.parametrize("batcher, expected", [("default", {3: 1, 1: 1}), ("compat", {2: 1, 1: 2})])
def test_other_shapes_cut_a_batch_only_in_compat(tmp_path, batcher, expected):
    identity(tmp_path, "m", "", parameters={"batcher": batcher, "execute_delay_ms": 50})
    with held(tmp_path, 4) as stub:
        calls = []
        for index, width in enumerate([2, 2, 5, 2]):
            message = ask("m", width=width, value=float(index))
            # Their order in the queue is what is tested. The last one starts the batcher.
            calls.append(queue(stub.server, stub, message, index + 1) if index < 3 else send(stub, message))
        all_answered(calls)
        assert batches(stub, "m") == expected


def test_batches_are_cut_by_cost_too(tmp_path):
    identity(tmp_path, "m", "", parameters={"max_batch_tokens": 100, "batch_cost": "elements:INPUT0"}, max_batch_size=64)
    with held(tmp_path, 6) as stub:
        all_answered([send(stub, ask("m", width=40, value=float(index))) for index in range(6)])
        assert batches(stub, "m") == {2: 3}


def order_of_ends(server, stub, messages):
    """Queue messages one after another; return the values and codes in the order in which they were answered.

    The last one starts a batcher that is held until all wait.
    """
    order, lock, calls = [], threading.Lock(), []
    for count, message in enumerate(messages, 1):
        call = queue(server, stub, message, count) if count < len(messages) else send(stub, message)

        def ended(done, id=message.id):
            with lock:
                order.append((float(id), done.code()))
        call.add_done_callback(ended)
        calls.append(call)
    for call in calls:
        call.exception()
    return wait_until(lambda: len(order) == len(calls) and order, "every callback has run")


def test_higher_priorities_go_first(tmp_path):
    identity(tmp_path, "m", "priority_levels: 3 default_priority_level: 2", max_batch_size=1, parameters={"execute_delay_ms": 30})
    with held(tmp_path, 6) as stub:
        levels = [3, 2, 0, 1, 1, 3]
        messages = [ask("m", value=float(index), priority=level) for index, level in enumerate(levels)]
        order = order_of_ends(stub.server, stub, messages)
        assert [value for value, _ in order] == [3.0, 4.0, 1.0, 2.0, 0.0, 5.0]


def test_preserved_order(tmp_path):
    # Without it the third request would join the first, whose shape it has.
    identity(tmp_path, "m", "preserve_ordering: true", max_batch_size=4, parameters={"execute_delay_ms": 100})
    with held(tmp_path, 6) as stub:
        widths = [2, 5, 2, 2, 5, 5]
        order = order_of_ends(stub.server, stub, [ask("m", width=width, value=float(index)) for index, width in enumerate(widths)])
        assert [code for _, code in order] == [grpc.StatusCode.OK] * 6
        assert [value for value, _ in order][:2] == [0.0, 1.0]
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
    if batching:
        identity(tmp_path, "m", "default_queue_policy { default_timeout_microseconds: 50000 }", parameters={"execute_delay_ms": 3000})
    else:
        write_identity(tmp_path, "m", max_batch_size=8, parameters={"execute_delay_ms": 3000})
    with Server(tmp_path) as server:
        stub = server.stub()
        busy = running(server, stub, ask("m", value=1.0))
        with refused(UNAVAILABLE, "^Request timeout expired$"):
            stub.ModelInfer(ask("m", value=2.0, timeout=40_000), timeout=LIMIT_S)
        assert not busy.done()
        all_answered([busy])
        assert batches(stub, "m") == {1: 1} and failures(stub, "m") == 1


def test_delayed_requests_run_last(tmp_path):
    identity(tmp_path, "m", "default_queue_policy { timeout_action: DELAY allow_timeout_override: true "
             "default_timeout_microseconds: 60000000 }", max_batch_size=1, parameters={"execute_delay_ms": 1000})
    with Server(tmp_path) as server:
        stub = server.stub()
        first = running(server, stub, ask("m", value=0.0))
        # While the first runs, the second's time passes; it is served all the same, behind the third and fourth.
        messages = [ask("m", value=1.0, timeout=20_000), ask("m", value=2.0), ask("m", value=3.0)]
        order = order_of_ends(server, stub, messages)
        assert order == [(2.0, grpc.StatusCode.OK), (3.0, grpc.StatusCode.OK), (1.0, grpc.StatusCode.OK)]
        all_answered([first])


def test_what_cannot_be_ready_in_time_is_refused_on_arrival(tmp_path):
    identity(tmp_path, "m", "", max_batch_size=1, parameters={"execute_delay_ms": 400})
    with Server(tmp_path) as server:
        stub = server.stub()
        all_answered([send(stub, ask("m", value=float(index))) for index in range(10)])
        executed = statistics(stub, "m").execution_count
        with refused(UNAVAILABLE, "^Request timeout expired$"):
            stub.ModelInfer(ask("m", value=99.0), timeout=0.15)
        assert statistics(stub, "m").execution_count == executed


def test_what_was_canceled_in_the_queue_is_not_executed(tmp_path):
    identity(tmp_path, "m", "", max_batch_size=1, parameters={"execute_delay_ms": 1500})
    with Server(tmp_path) as server:
        stub = server.stub()
        first = running(server, stub, ask("m", value=0.0))
        canceled = [send(stub, ask("m", value=float(index))) for index in range(1, 9)]
        last = send(stub, ask("m", value=9.0))
        wait_until(lambda: waiting(server) == 9, "all of them wait")
        for call in canceled:
            call.cancel()
        all_answered([first, last])
        counts = wait_until(lambda: (got := statistics(stub, "m")).inference_stats.fail.count == 8 and got, "all are counted")
        # At most the one that was prepared behind the first had begun to run before its cancel came.
        assert counts.inference_stats.success.count == 2 and counts.execution_count <= 3


def test_a_deadline_holds_for_the_whole_ensemble(tmp_path):
    identity(tmp_path, "slow", "", parameters={"execute_delay_ms": 400})
    identity(tmp_path, "after", "")
    write(tmp_path, "both", ensemble("both", [("INPUT0", "FP32", [-1])], [("OUTPUT0", "FP32", [-1])], [
        ("slow", {"INPUT0": "INPUT0"}, {"OUTPUT0": "between"}), ("after", {"INPUT0": "between"}, {"OUTPUT0": "OUTPUT0"})], 8))
    with Server(tmp_path) as server:
        stub = server.stub()
        with refused(DEADLINE_EXCEEDED):
            stub.ModelInfer(ask("both", value=1.0), timeout=0.2)
        with refused(UNAVAILABLE, "^in ensemble 'both', Request timeout expired$"):
            stub.ModelInfer(ask("both", value=1.0, timeout=200_000), timeout=LIMIT_S)
        wait_until(lambda: failures(stub, "both") == 2, "both are counted")
        assert statistics(stub, "after").execution_count == 0
        assert set(outputs_of(stub.ModelInfer(ask("both", value=4.0), timeout=LIMIT_S))["OUTPUT0"][2].tolist()) == {4.0}


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
