"""Models that share a device, and the rate limiter's resources: who may run, and what fails a load."""

import queue
import subprocess
import time

import numpy as np
import pytest

from harness.models import config, write
from harness.server import LIMIT_S, Server
from harness.wire import request

ON = "--rate-limit=execution_count"


def write_identity(repository, name, limiter, delay_ms, more=""):
    """Write a model of which each execution takes a while."""
    extra = f"instance_group [ {{ count: 1, kind: KIND_CPU, {limiter} }} ] {more}"
    write(repository, name, config(name, "identity", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 4,
                                   {"execute_delay_ms": str(delay_ms)}, extra))


def write_fake(repository, name, parameters):
    """Write a model on the device `npu`."""
    write(repository, name, config(name, "fake", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], 4,
                                   {"device": "npu", **parameters}))


def write_pair(repository, delay_ms=10):
    """Write two models of which the second needs less of one resource, and some of another, at half the rate."""
    write_identity(repository, "first", 'rate_limiter { resources [ { name: "resource1" count: 4 } ] }', delay_ms)
    write_identity(repository, "second", 'rate_limiter { resources [ { name: "resource1" count: 2 }, '
                   '{ name: "resource2" global: true count: 2 } ] priority: 2 }', delay_ms)


def ask(model):
    """Return a request of one row."""
    return request(model, [("INPUT0", "FP32", [1, 1], np.ones((1, 1), np.float32))])


def flood(server, models, answers, under_way=8):
    """Keep requests to each model under way until one model has so many answers; return the models in their order."""
    stub, done, order = server.stub(), queue.Queue(), []

    def send(model):
        call = stub.ModelInfer.future(ask(model), timeout=LIMIT_S)
        call.add_done_callback(lambda call: done.put((model, call)))

    for _ in range(under_way):
        for model in models:
            send(model)
    while max(order.count(model) for model in models) < answers:
        model, call = done.get(timeout=LIMIT_S)
        call.result()
        order.append(model)
        send(model)
    for _ in range(under_way * len(models)):
        done.get(timeout=LIMIT_S)[1].result()
    return order


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
    write_identity(repository, "third", 'rate_limiter { resources [ { name: "resource2" count: 2 } ] }', 1)
    expected = 'Resource "resource2" is present as both global and device-specific resource in the model configuration.'
    assert expected in failing_start(repository).replace('\\"', '"')


@pytest.mark.parametrize("flags", [[], ["--rate-limit-resource=resource1:4", "--rate-limit-resource=resource2:2"]])
def test_scarce_resources_are_shared_by_priority(repository, flags):
    write_pair(repository)
    with Server(repository, ON, *flags) as server:
        order = flood(server, ["first", "second"], 60)
        assert 1.7 < order.count("first") / order.count("second") < 2.4, order


def test_plenty_of_resources_let_both_run(repository):
    write_pair(repository)
    with Server(repository, ON, "--rate-limit-resource=resource1:6", "--rate-limit-resource=resource2:2:0") as server:
        order = flood(server, ["first", "second"], 60)
        assert order.count("second") > 45, order


def test_without_the_flag_resources_are_named_in_a_warning(repository):
    write_pair(repository)
    with Server(repository, "--rate-limit-resource=resource1:1") as server:
        order = flood(server, ["first", "second"], 40)
        assert order.count("second") > 30, order
        log = server.log()
        assert "instance_group[0].rate_limiter" in log and "--rate-limit execution_count" in log
        assert "--rate-limit-resource has no effect" in log
        shown = server.client().get_model_config("first", as_json=True)["config"]["instance_group"][0]
        assert shown["rate_limiter"]["resources"] == [{"name": "resource1", "count": 4}]


def test_a_blocked_instance_keeps_nobody_else_waiting(repository):
    write_identity(repository, "blocked", 'rate_limiter { resources [ { name: "license" global: true count: 1 } ] }', 300)
    write_identity(repository, "licensed", 'rate_limiter { resources [ { name: "license" global: true count: 1 } ] }', 300)
    write_identity(repository, "free", "", 1)
    with Server(repository, ON) as server:
        stub = server.stub()
        calls = [stub.ModelInfer.future(ask(model), timeout=LIMIT_S) for model in ("licensed", "blocked") for _ in range(2)]
        for _ in range(20):
            stub.ModelInfer(ask("free"), timeout=LIMIT_S)
        assert sum(call.done() for call in calls) <= 1, "the free model answered while the others waited for each other"
        for call in calls:
            call.result()


@pytest.mark.parametrize("value", ["resource1", "resource1:many", ":1", "resource1:1:", "resource1:-1"])
def test_malformed_resources_are_refused(repository, value):
    from harness.server import binary
    done = subprocess.run([str(binary()), "serve", "--model-repository", str(repository), ON, f"--rate-limit-resource={value}"],
                          capture_output=True, text=True, timeout=LIMIT_S, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "NAME:COUNT" in done.stderr


def test_models_on_one_device_take_turns(repository):
    for name in ("a", "b"):
        write_fake(repository, name, {"fixed_us": "5000"})
    with Server(repository) as server:
        begun = time.monotonic()
        order = flood(server, ["a", "b"], 40)
        # Turns cannot be faster than one after the other.
        assert time.monotonic() - begun >= 0.005 * (len(order) + 16)
        assert order.count("b") > 30 and order.count("a") > 30, order


def test_slots_let_models_run_side_by_side(repository):
    for name in ("a", "b"):
        write_fake(repository, name, {"fixed_us": "50000"})

    def seconds(*flags):
        with Server(repository, *flags) as server:
            begun = time.monotonic()
            flood(server, ["a", "b"], 10, under_way=2)
            return time.monotonic() - begun

    # A ratio within one run: how fast the machine is does not matter.
    assert seconds("--device-slots", "npu=2") < 0.75 * seconds()


def test_weights_and_classes(repository):
    write_fake(repository, "heavy", {"fixed_us": "4000", "device_weight": "3"})
    write_fake(repository, "light", {"fixed_us": "4000"})
    write_fake(repository, "urgent", {"fixed_us": "4000", "device_priority": "1"})
    write_fake(repository, "background", {"fixed_us": "4000", "device_priority": "3"})
    with Server(repository) as server:
        order = flood(server, ["heavy", "light"], 60)
        assert 2.4 < order.count("heavy") / order.count("light") < 3.6, order
        order = flood(server, ["urgent", "background"], 64)
        # Passed over at most sixteen times, and so never starved.
        assert 2 <= order.count("background") <= 8, order
