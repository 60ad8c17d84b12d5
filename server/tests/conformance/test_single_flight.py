"""Single flight: identical requests that are under way run once, and each client keeps its own terms."""

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.metrics import scrape, value_of
from harness.models import config, ensemble, write, write_identity, write_sleep
from harness.server import Server, wait_until
from harness.state import HOLD_S, hold, nap, pending, send, wait_pending
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


def counts(server, model):
    """Return (success, fail, executions, inferences) of a model."""
    stats = server.stub().ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S).model_stats[0]
    return (stats.inference_stats.success.count, stats.inference_stats.fail.count, stats.execution_count,
            stats.inference_count)


def test_identical_requests_run_once(server):
    stub, held = server.stub(), hold(server, nap("nap"))
    calls = send(stub, *[nap("nap", 0.5, id=str(number)) for number in range(20)])
    wait_pending(server, "nap", 20)
    held.cancel()
    replies = [call.result() for call in calls]
    assert [reply.id for reply in replies] == [str(number) for number in range(20)]
    assert all(list(outputs_of(reply)["OUTPUT0"][2]) == [0.5] for reply in replies)
    # What held the instance ended with its client: it is no execution.
    assert counts(server, "nap") == (20, 1, 1, 1)
    # Nothing is kept: the next one runs.
    stub.ModelInfer(nap("nap", 0.5), timeout=LIMIT_S)
    assert counts(server, "nap") == (21, 1, 2, 2)


def test_off_by_default(server):
    held = hold(server, nap("plain"))
    calls = send(server.stub(), *[nap("plain", 0.01) for _ in range(5)])
    wait_pending(server, "plain", 5)
    held.cancel()
    for call in calls:
        call.result()
    assert counts(server, "plain") == (5, 1, 5, 5)


def test_requests_that_differ_run_apart(server):
    held = hold(server, nap("nap"))
    calls = send(server.stub(), nap("nap", 0.1), nap("nap", 0.2), nap("nap", 0.1, parameters={"p": 1}), nap("nap", 0.2))
    wait_pending(server, "nap", 4)
    held.cancel()
    assert [float(outputs_of(call.result())["OUTPUT0"][2][0]) for call in calls] == pytest.approx([0.1, 0.2, 0.1, 0.2])
    assert counts(server, "nap")[:3] == (4, 1, 3)


def test_on_a_stream_answers_keep_their_order(server):
    held = hold(server, nap("nap"))
    messages = [nap("nap", 0.3, id=str(number)) for number in range(6)]
    stream = server.stub().ModelStreamInfer(iter(messages), timeout=LIMIT_S)
    wait_pending(server, "nap", 6)
    held.cancel()
    replies = list(stream)
    assert [reply.infer_response.id for reply in replies] == [str(number) for number in range(6)]
    assert all(reply.error_message == "" for reply in replies)
    assert counts(server, "nap") == (6, 1, 1, 1)


def test_who_leaves_does_not_take_the_others_along(server):
    held = hold(server, nap("nap"))
    calls = []
    # Each on its own, so that it is known who leads.
    for number in range(4):
        calls += send(server.stub(), nap("nap", 0.01, id=str(number)))
        wait_pending(server, "nap", number + 1)
    calls[0].cancel()
    calls[2].cancel()
    wait_pending(server, "nap", 3)
    held.cancel()
    assert [calls[number].result().id for number in (1, 3)] == ["1", "3"]
    # The leader's own execution counts for him: it ran.
    assert counts(server, "nap") == (3, 2, 1, 1)


def test_when_all_have_left_nothing_runs(server):
    held = hold(server, nap("nap"))
    calls = []
    for number in range(3):
        calls += send(server.stub(), nap("nap", 0.01))
        wait_pending(server, "nap", number + 1)
    for call in calls:
        call.cancel()
    wait_until(lambda: counts(server, "nap")[1] >= 2, "the cancels of those that followed are noticed")
    assert not held.done()
    held.cancel()
    wait_until(lambda: counts(server, "nap")[1] == 4, "four are counted as canceled")
    assert counts(server, "nap") == (0, 4, 0, 0)
    assert value_of(scrape(server), "nv_inference_request_failure", model="nap", version=1, reason="CANCELED") == 4
    server.stub().ModelInfer(nap("nap", 0.01), timeout=LIMIT_S)
    assert counts(server, "nap") == (1, 4, 1, 1)


def level(seconds, **more):
    """Return a request to the model with priorities."""
    return nap("levels", seconds, shape=(1, 1), **more)


def test_where_the_leaders_time_ends_another_takes_over(server):
    held = hold(server, level(HOLD_S))
    (leader,) = send(server.stub(), level(0.01, id="leader", parameters={"timeout": 2_000_000}))
    # On a machine that stands still for two seconds, the other one comes too late to follow and leads itself.
    wait_until(lambda: leader.done() or pending(server, "levels") == 1, "the leader waits")
    (follower,) = send(server.stub(), level(0.01, id="follower"))
    with pytest.raises(grpc.RpcError) as error:
        leader.result()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
    assert not held.done(), "it was refused while the instance was busy"
    held.cancel()
    assert follower.result().id == "follower"
    assert counts(server, "levels") == (1, 2, 1, 1)


def test_a_followers_time_ends_alone(server):
    held = hold(server, nap("nap"))
    leader = send(server.stub(), nap("nap", 0.01, id="leader"))
    wait_pending(server, "nap", 1)
    follower = send(server.stub(), nap("nap", 0.01, id="follower", parameters={"timeout": 200_000}))
    with pytest.raises(grpc.RpcError) as error:
        follower[0].result()
    assert (error.value.code(), error.value.details()) == (grpc.StatusCode.UNAVAILABLE, "Request timeout expired")
    assert not held.done()
    held.cancel()
    assert leader[0].result().id == "leader"
    assert counts(server, "nap") == (1, 2, 1, 1)


def test_a_followers_own_deadline(server):
    held = hold(server, nap("nap"))
    leader = send(server.stub(), nap("nap", 0.01))
    wait_pending(server, "nap", 1)
    (follower,) = send(server.stub(), nap("nap", 0.01), timeout=1.0)
    with pytest.raises(grpc.RpcError) as error:
        follower.result()
    assert error.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # The client's clock may have been the first: the server counts it a moment later, while the instance is held.
    wait_until(lambda: counts(server, "nap")[1] == 1, "it is counted")
    assert not held.done()
    held.cancel()
    leader[0].result()
    assert counts(server, "nap")[:3] == (1, 2, 1)


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
    held = hold(server, nap("few"))
    calls = send(server.stub(), *[nap("few", 0.01, id=str(number)) for number in range(10)])
    wait_until(lambda: sum(call.done() for call in calls) == 6, "six are refused")
    assert pending(server, "few") == 4
    held.cancel()
    answered = []
    for number, call in enumerate(calls):
        try:
            answered.append(call.result().id)
            assert answered[-1] == str(number)
        except grpc.RpcError as error:
            full = f"[request id: {number}] Exceeds maximum queue size"
            assert (error.code(), error.details()) == (grpc.StatusCode.UNAVAILABLE, full)
    assert len(answered) == 4
    assert counts(server, "few")[:3] == (4, 7, 1)


def test_priority_does_not_wait_behind_the_lack_of_it(server):
    held = hold(server, level(HOLD_S))
    low = send(server.stub(), level(0.01, id="low"))
    wait_pending(server, "levels", 1)
    other = send(server.stub(), level(0.5, id="other"))
    wait_pending(server, "levels", 2)
    high = send(server.stub(), level(0.01, id="high", parameters={"priority": 1}))
    wait_pending(server, "levels", 3)
    joins = send(server.stub(), level(0.01, id="joins"))
    wait_pending(server, "levels", 4)
    held.cancel()
    ids = [call.result().id for call in (high[0], joins[0], low[0], other[0])]
    assert ids == ["high", "joins", "low", "other"]
    assert counts(server, "levels")[:3] == (4, 1, 3)


def test_an_ensemble_shares_all_of_its_steps(server):
    held = hold(server, nap("plain"))
    calls = send(server.stub(), *[nap("graph", 0.5, name="A", id=str(number)) for number in range(8)])
    wait_pending(server, "graph", 7)
    wait_pending(server, "plain", 1)
    held.cancel()
    assert [call.result().id for call in calls] == [str(number) for number in range(8)]
    assert counts(server, "graph")[:3] == (8, 0, 1)
    assert counts(server, "plain") == (1, 1, 1, 1)


def test_together_with_the_cache(repository):
    write_sleep(repository, "both", SHARED + " response_cache { enable: true }")
    with Server(repository, "--cache-config", "local,size=100000") as server:
        stub = server.stub()
        for call in send(stub, *[nap("both", 0.3) for _ in range(10)]):
            call.result()
        stub.ModelInfer(nap("both", 0.3), timeout=LIMIT_S)
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
