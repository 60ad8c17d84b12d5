"""Models that share a device, and the rate limiter's resources: who may run, and what fails a load."""

import queue
import subprocess
import time

import pytest

from harness.models import config, write
from harness.server import LIMIT_S, Server, binary
from harness.state import hold, nap, pending, send, wait_pending
from harness.wire import request

ON = "--rate-limit=execution_count"
# Every batcher waits until so many requests are there: tests of order begin when all have come.
REQUESTS = 80
HELD = {"TRITONSERVER_DELAY_SCHEDULER": str(REQUESTS)}


def write_limited(repository, name, limiter, delay_ms, kind="identity"):
    """Write a model of which each execution takes a while."""
    extra = f"instance_group [ {{ count: 1, kind: KIND_CPU, {limiter} }} ]"
    write(repository, name, config(name, kind, [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])],
                                   parameters={"execute_delay_ms": str(delay_ms)}, extra=extra))


def write_fake(repository, name, parameters):
    """Write a model on the device `npu`, which runs its requests one by one."""
    write(repository, name, config(name, "fake", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 1,
                                   {"device": "npu", **parameters}, "dynamic_batching { }"))


def write_pair(repository, delay_ms=10):
    """Write two models of which the second needs less of one resource, and some of another, at half the rate."""
    write_limited(repository, "first", 'rate_limiter { resources [ { name: "resource1" count: 4 } ] }', delay_ms)
    write_limited(repository, "second", 'rate_limiter { resources [ { name: "resource1" count: 2 }, '
                  '{ name: "resource2" global: true count: 2 } ] priority: 2 }', delay_ms)


def write_barrier(repository):
    """Write a model that takes all that the pair shares; while its instance is held, neither of them runs."""
    write_limited(repository, "barrier", 'rate_limiter { resources [ { name: "resource1" count: 4 }, '
                  '{ name: "resource2" global: true count: 2 } ] }', 0, "sleep")


def ask(model, shape=(1, 1), **parameters):
    """Return a request of one row."""
    return request(model, [("INPUT0", "FP32", shape, [1.0])], parameters=parameters)


def flood(stub, messages, answers, come=None):
    """Send all messages; return the models of their answers in order, up to so many of the first model to get them.

    Nothing may run before all have come, and all models have more requests than are looked at: then the order is up to
    the server alone, however fast this machine is. `come` is called when all have been sent.
    """
    done, order = queue.Queue(), []
    for message in messages:
        call = stub.ModelInfer.future(message, timeout=LIMIT_S)
        call.add_done_callback(lambda call, model=message.model_name: done.put((model, call)))
    if come is not None:
        come()
    for _ in messages:
        model, call = done.get(timeout=LIMIT_S)
        call.result()
        order.append(model)
    models = {message.model_name for message in messages}
    return next(order[:end] for end in range(len(order) + 1) if max(map(order[:end].count, models)) == answers)


def in_a_round(order, holds):
    """Whether `holds` is true of the order in some round; `order` runs one.

    Shares are shares of time, and a turn is charged what it really took. Where the machine stands still in the middle
    of a turn, its model has fewer of them for a while. That happens in one round or another; a wrong share is in all.
    """
    orders = []
    while len(orders) < 7:
        orders.append(order())
        if holds(orders[-1]):
            return
    raise AssertionError(f"it holds in none of {len(orders)} rounds: {orders}")


def flood_pair(server, answers):
    """Send many requests to the pair, and let them run when all wait behind a call to the barrier."""
    barrier = hold(server, nap("barrier"))

    def come():
        for model in ("first", "second"):
            wait_pending(server, model, REQUESTS)
        barrier.cancel()

    return flood(server.stub(), [ask(model, [1]) for _ in range(REQUESTS) for model in ("first", "second")], answers, come)


def flood_fakes(repository, models, answers):
    """Send many requests to models of a new server, whose batchers wait for all of them."""
    with Server(repository, env=HELD) as server:
        return flood(server.stub(), [ask(model) for _ in range(REQUESTS) for model in models], answers)


def failing_start(repository, *flags):
    """Start a server that must end, and return its log."""
    with Server(repository, ON, *flags, ready=False) as server:
        assert server.wait_exit() == 1
        return server.log()


@pytest.mark.parametrize("flags, limit", [
    (["--rate-limit-resource=resource1:1"], 1),
    (["--rate-limit-resource=resource1:3", "--rate-limit-resource=resource2:2"], 3),
    # Given for another device alone, there is none of it on this one.
    (["--rate-limit-resource=resource1:10:10", "--rate-limit-resource=resource2:2"], 0),
])
def test_too_little_of_a_resource_fails_the_load(repository, flags, limit):
    write_pair(repository)
    expected = (f'Resource count for "resource1" is limited to {limit} which will prevent scheduling of one or more '
                "model instances, the minimum required count is 4")
    assert expected in failing_start(repository, *flags).replace('\\"', '"')


def test_a_resource_is_global_or_not(repository):
    write_pair(repository)
    write_limited(repository, "third", 'rate_limiter { resources [ { name: "resource2" count: 2 } ] }', 1)
    expected = 'Resource "resource2" is present as both global and device-specific resource in the model configuration.'
    assert expected in failing_start(repository).replace('\\"', '"')


@pytest.mark.parametrize("flags", [[], ["--rate-limit-resource=resource1:4", "--rate-limit-resource=resource2:2"]])
def test_scarce_resources_are_shared_by_priority(repository, flags):
    write_pair(repository)
    write_barrier(repository)
    with Server(repository, ON, *flags) as server:
        in_a_round(lambda: flood_pair(server, 60), lambda order: 1.7 < order.count("first") / order.count("second") < 2.4)


def test_plenty_of_resources_let_both_run(repository):
    write_pair(repository)
    write_barrier(repository)
    # What the barrier leaves of the first resource is too little for the first model, and of the second there is none.
    with Server(repository, ON, "--rate-limit-resource=resource1:6", "--rate-limit-resource=resource2:2:0") as server:
        in_a_round(lambda: flood_pair(server, 60), lambda order: order.count("second") > 45)


def test_without_the_flag_resources_are_named_in_a_warning(repository):
    write_pair(repository, delay_ms=20)
    with Server(repository, "--rate-limit-resource=resource1:1") as server:
        messages = [ask(model, [1]) for _ in range(REQUESTS) for model in ("first", "second")]
        in_a_round(lambda: flood(server.stub(), messages, 40), lambda order: order.count("second") > 30)
        log = server.log()
        assert "instance_group[0].rate_limiter" in log and "--rate-limit execution_count" in log
        assert "--rate-limit-resource has no effect" in log
        shown = server.client().get_model_config("first", as_json=True)["config"]["instance_group"][0]
        assert shown["rate_limiter"]["resources"] == [{"name": "resource1", "count": 4}]


def test_a_blocked_instance_keeps_nobody_else_waiting(repository):
    license = 'rate_limiter { resources [ { name: "license" global: true count: 1 } ] }'
    write_limited(repository, "licensed", license, 0, "sleep")
    write_limited(repository, "blocked", license, 0, "sleep")
    write_limited(repository, "free", "", 1)
    with Server(repository, ON) as server:
        licensed = hold(server, nap("licensed"))
        stub = server.stub()
        blocked = send(stub, *[nap("blocked", 0.0) for _ in range(2)])
        wait_pending(server, "blocked", 2)
        for _ in range(20):
            stub.ModelInfer(ask("free", [1]), timeout=LIMIT_S)
        assert not licensed.done() and pending(server, "blocked") == 2, "one of two runs, and the other waits for it"
        licensed.cancel()
        for call in blocked:
            call.result()


@pytest.mark.parametrize("value", ["resource1", "resource1:many", ":1", "resource1:1:", "resource1:-1"])
def test_malformed_resources_are_refused(repository, value):
    done = subprocess.run([str(binary()), "serve", "--model-repository", str(repository), ON, f"--rate-limit-resource={value}"],
                          capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "NAME:COUNT" in done.stderr


def test_models_on_one_device_take_turns(repository):
    for name in ("a", "b"):
        write_fake(repository, name, {"fixed_us": "5000"})

    def order():
        begun = time.monotonic()
        got = flood_fakes(repository, ["a", "b"], 40)
        # Turns cannot be faster than one after the other.
        assert time.monotonic() - begun >= 0.005 * 2 * REQUESTS
        return got

    in_a_round(order, lambda order: order.count("b") > 30 and order.count("a") > 30)


@pytest.mark.parametrize("flags, together", [((), False), (("--device-slots", "npu=2"), True)])
def test_slots_let_models_run_side_by_side(repository, flags, together):
    # Far longer than the test may take: it ends with the server.
    write_fake(repository, "long", {"fixed_us": "3000000000"})
    write_fake(repository, "short", {"fixed_us": "1000"})
    with Server(repository, *flags) as server:
        long = hold(server, ask("long"))
        (short,) = send(server.stub(), ask("short"))
        if together:
            short.result()
        else:
            wait_pending(server, "short", 1)
            # However long one looks at it.
            for _ in range(20):
                assert pending(server, "short") == 1
        assert not long.done()


def test_weights_and_classes(repository):
    write_fake(repository, "heavy", {"fixed_us": "4000", "device_weight": "3"})
    write_fake(repository, "light", {"fixed_us": "4000"})
    write_fake(repository, "urgent", {"fixed_us": "4000", "device_priority": "1"})
    write_fake(repository, "background", {"fixed_us": "4000", "device_priority": "3"})
    in_a_round(lambda: flood_fakes(repository, ["heavy", "light"], 60),
               lambda order: 2.4 < order.count("heavy") / order.count("light") < 3.6)
    order = flood_fakes(repository, ["urgent", "background"], 64)
    # Passed over at most sixteen times, and so never starved.
    assert 2 <= order.count("background") <= 8, order
