"""Single flight: identical requests that are under way run once, and each client keeps its own terms."""

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.metrics import scrape, value_of
from harness.models import config, ensemble, write, write_identity, write_sleep
from harness.server import Server, wait_until
from harness.wire import outputs_of, request

LIMIT_S = 60

SHARED = 'parameters { key: "single_flight" value { string_value: "true" } }'
BOUNDED = SHARED + ' parameters { key: "max_queue_size" value { string_value: "4" } }'


@pytest.fixture
def server(repository):
    """A server whose models take as long as a request says: one instance each."""
    write_sleep(repository, "nap", SHARED)
    write_sleep(repository, "plain")
    write_sleep(repository, "few", BOUNDED)
    write(repository, "levels", config(
        "levels", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 1,
        extra=SHARED + " dynamic_batching { priority_levels: 2 default_priority_level: 2 }"))
    write(repository, "graph", ensemble(
        "graph", [("A", "FP32", [1])], [("B", "FP32", [1])], [("plain", {"INPUT0": "A"}, {"OUTPUT0": "B"})],
        extra=SHARED))
    write(repository, "fails", config(
        "fails", "add_sub", [("INPUT0", "BYTES", [1]), ("INPUT1", "BYTES", [1])],
        [("OUTPUT0", "BYTES", [1]), ("OUTPUT1", "BYTES", [1])], parameters={"execute_delay_ms": "500"}, extra=SHARED))
    with Server(repository, "--cache-config", "local,size=100000") as server:
        yield server


def nap(seconds, model="nap", name="INPUT0", shape=(1,), **more):
    """Return a request that runs so long."""
    return request(model, [(name, "FP32", shape, [seconds])], **more)


def counts(server, model):
    """Return (success, fail, executions, inferences) of a model."""
    stats = server.stub().ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S).model_stats[0]
    return (stats.inference_stats.success.count, stats.inference_stats.fail.count, stats.execution_count,
            stats.inference_count)


def pending(server, model):
    """Return how many requests of a model wait."""
    return value_of(scrape(server), "nv_inference_pending_request_count", model=model, version=1)


def wait_pending(server, model, count):
    """Wait until so many requests of a model wait."""
    wait_until(lambda: pending(server, model) == count, f"{count} requests of {model} wait")


def send(stub, *messages, timeout=LIMIT_S):
    """Send requests without waiting for answers, in this order."""
    return [stub.ModelInfer.future(message, timeout=timeout) for message in messages]


def hold(server, model="nap", seconds=2.0):
    """Keep the only instance of a model busy, and return the call."""
    (call,) = send(server.stub(), nap(seconds, model, shape=(1, 1) if model == "levels" else (1,)))
    busy = f"nv_inference_pending_request_count of {model}"

    def runs():
        return pending(server, model) == 0 and counts_started(server, model)

    wait_until(runs, f"{busy} is 0 and a request runs")
    return call


def counts_started(server, model):
    """Whether an instance of a model is busy."""
    return (value_of(scrape(server), "alcedo_instance_busy_seconds_total", model=model, version=1, instance=0) or 0) > 0


def test_identical_requests_run_once(server):
    stub = server.stub()
    calls = send(stub, *[nap(0.5, id=str(number)) for number in range(20)])
    replies = [call.result() for call in calls]
    assert [reply.id for reply in replies] == [str(number) for number in range(20)]
    assert all(list(outputs_of(reply)["OUTPUT0"][2]) == [0.5] for reply in replies)
    assert counts(server, "nap") == (20, 0, 1, 1)
    # Nothing is kept: the next one runs.
    stub.ModelInfer(nap(0.5), timeout=LIMIT_S)
    assert counts(server, "nap") == (21, 0, 2, 2)


def test_off_by_default(server):
    for call in send(server.stub(), *[nap(0.05, "plain") for _ in range(5)]):
        call.result()
    assert counts(server, "plain") == (5, 0, 5, 5)


def test_requests_that_differ_run_apart(server):
    calls = send(server.stub(), nap(0.1), nap(0.2), nap(0.1, parameters={"p": 1}), nap(0.2))
    assert [float(outputs_of(call.result())["OUTPUT0"][2][0]) for call in calls] == pytest.approx([0.1, 0.2, 0.1, 0.2])
    success, fail, executions, _ = counts(server, "nap")
    assert (success, fail) == (4, 0) and executions in (3, 4)


def test_on_a_stream_answers_keep_their_order(server):
    messages = [nap(0.3, id=str(number)) for number in range(6)]
    replies = list(server.stub().ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [reply.infer_response.id for reply in replies] == [str(number) for number in range(6)]
    assert all(reply.error_message == "" for reply in replies)
    assert counts(server, "nap") == (6, 0, 1, 1)


def test_who_leaves_does_not_take_the_others_along(server):
    held = hold(server)
    calls = []
    # Each on its own, so that it is known who leads.
    for number in range(4):
        calls += send(server.stub(), nap(0.01, id=str(number)))
        wait_pending(server, "nap", number + 1)
    calls[0].cancel()
    calls[2].cancel()
    wait_pending(server, "nap", 3)
    assert [calls[number].result().id for number in (1, 3)] == ["1", "3"]
    held.result()
    # The leader's own execution counts for him: it ran.
    assert counts(server, "nap") == (4, 1, 2, 2)


def test_when_all_have_left_nothing_runs(server):
    held = hold(server)
    calls = []
    for number in range(3):
        calls += send(server.stub(), nap(0.01))
        wait_pending(server, "nap", number + 1)
    for call in calls:
        call.cancel()
    held.result()
    wait_until(lambda: counts(server, "nap")[1] == 3, "three are counted as canceled")
    assert counts(server, "nap") == (1, 3, 1, 1)
    assert value_of(scrape(server), "nv_inference_request_failure", model="nap", version=1, reason="CANCELED") == 3
    server.stub().ModelInfer(nap(0.01), timeout=LIMIT_S)
    assert counts(server, "nap") == (2, 3, 2, 2)


def test_where_the_leaders_time_ends_another_takes_over(server):
    held = hold(server, "levels")
    leader = send(server.stub(), nap(0.01, "levels", shape=(1, 1), id="leader", parameters={"timeout": 200_000}))
    wait_pending(server, "levels", 1)
    follower = send(server.stub(), nap(0.01, "levels", shape=(1, 1), id="follower"))
    with pytest.raises(grpc.RpcError) as error:
        leader[0].result()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
    assert not held.done(), "it was refused while the instance was busy"
    assert follower[0].result().id == "follower"
    held.result()
    assert counts(server, "levels") == (2, 1, 2, 2)


def test_a_followers_time_ends_alone(server):
    held = hold(server)
    leader = send(server.stub(), nap(0.01, id="leader"))
    wait_pending(server, "nap", 1)
    follower = send(server.stub(), nap(0.01, id="follower", parameters={"timeout": 200_000}))
    with pytest.raises(grpc.RpcError) as error:
        follower[0].result()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
    assert not held.done()
    assert leader[0].result().id == "leader"
    assert counts(server, "nap") == (2, 1, 2, 2)


def test_a_followers_own_deadline(server):
    held = hold(server)
    leader = send(server.stub(), nap(0.01))
    wait_pending(server, "nap", 1)
    (follower,) = send(server.stub(), nap(0.01), timeout=0.2)
    with pytest.raises(grpc.RpcError) as error:
        follower.result()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    leader[0].result()
    held.result()
    assert counts(server, "nap")[:3] == (2, 1, 2)


def test_errors_go_to_all(server):
    message = request("fails", [("INPUT0", "BYTES", [1], [b"no number"]), ("INPUT1", "BYTES", [1], [b"1"])])
    calls = send(server.stub(), *[message] * 5)
    texts = set()
    for call in calls:
        with pytest.raises(grpc.RpcError) as error:
            call.result()
        texts.add((error.value.code(), error.value.details()))
    assert len(texts) == 1
    assert counts(server, "fails")[:2] == (0, 5)
    assert value_of(scrape(server), "nv_inference_request_failure", model="fails", version=1, reason="BACKEND") == 5


def test_followers_take_places_in_the_queue(server):
    held = hold(server, "few")
    calls = send(server.stub(), *[nap(0.01, "few", id=str(number)) for number in range(10)])
    answered = []
    for number, call in enumerate(calls):
        try:
            answered.append(call.result().id)
            assert answered[-1] == str(number)
        except grpc.RpcError as error:
            full = f"[request id: {number}] Exceeds maximum queue size"
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, full)
    held.result()
    assert len(answered) == 4
    assert counts(server, "few")[:3] == (5, 6, 2)


def test_priority_does_not_wait_behind_the_lack_of_it(server):
    def levels(**more):
        return nap(0.01, "levels", shape=(1, 1), **more)
    held = hold(server, "levels")
    low = send(server.stub(), levels(id="low"))
    wait_pending(server, "levels", 1)
    other = send(server.stub(), nap(0.5, "levels", shape=(1, 1), id="other"))
    wait_pending(server, "levels", 2)
    high = send(server.stub(), levels(id="high", parameters={"priority": 1}))
    wait_pending(server, "levels", 3)
    joins = send(server.stub(), levels(id="joins"))
    ids = [call.result().id for call in (high[0], joins[0], low[0], other[0], held)]
    assert ids == ["high", "joins", "low", "other", ""]
    assert counts(server, "levels")[:3] == (5, 0, 4)


def test_an_ensemble_shares_all_of_its_steps(server):
    calls = send(server.stub(), *[nap(0.5, "graph", "A", id=str(number)) for number in range(8)])
    assert [call.result().id for call in calls] == [str(number) for number in range(8)]
    assert counts(server, "graph")[:3] == (8, 0, 1)
    assert counts(server, "plain") == (1, 0, 1, 1)


def test_together_with_the_cache(repository):
    write_sleep(repository, "both", SHARED + " response_cache { enable: true }")
    with Server(repository, "--cache-config", "local,size=100000") as server:
        stub = server.stub()
        for call in send(stub, *[nap(0.3, "both") for _ in range(10)]):
            call.result()
        stub.ModelInfer(nap(0.3, "both"), timeout=LIMIT_S)
        stats = stub.ModelStatistics(pb.ModelStatisticsRequest(name="both"), timeout=LIMIT_S).model_stats[0]
        assert stats.execution_count == 1 and stats.inference_stats.success.count == 11
        assert stats.inference_stats.cache_hit.count + stats.inference_stats.cache_miss.count == 11
        assert stats.inference_stats.cache_hit.count >= 1
        assert stats.inference_stats.compute_infer.count == 11 - stats.inference_stats.cache_hit.count


def test_many_clients_that_come_and_go(repository):
    write_identity(repository, "m", "FP32", [-1], parameters={"execute_delay_ms": "2"}, extra=SHARED)
    random = np.random.default_rng(7)
    with Server(repository) as server:
        stubs = [server.stub() for _ in range(8)]
        calls = []
        for number in range(2000):
            contents = float(random.integers(5))
            message = request("m", [("INPUT0", "FP32", [1], [contents])], id=str(number))
            if random.random() < 0.2:
                message.parameters["timeout"].int64_param = int(random.integers(1, 20_000))
            call = stubs[number % 8].ModelInfer.future(message, timeout=LIMIT_S)
            calls.append((number, contents, call))
            if random.random() < 0.2:
                calls[random.integers(len(calls))][2].cancel()
        answered = refused = canceled = 0
        for number, contents, call in calls:
            try:
                reply = call.result()
            except grpc.FutureCancelledError:
                canceled += 1
            except grpc.RpcError as error:
                assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
                refused += 1
            else:
                assert reply.id == str(number) and list(outputs_of(reply)["OUTPUT0"][2]) == [contents]
                answered += 1
        assert answered > 0 and answered + refused + canceled == 2000
        wait_until(lambda: pending(server, "m") == 0, "nothing waits any more")

        def settled():
            success, fail, executions, _ = counts(server, "m")
            # A cancelled call may not have reached the server, or have been answered meanwhile.
            return success >= answered and fail >= refused and success + fail <= 2000 and executions < success
        wait_until(settled, "the counts agree with what the clients saw")
