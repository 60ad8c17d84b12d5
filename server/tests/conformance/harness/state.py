"""What a server is doing, read from its metrics, and waits for it.

Calls on one connection have no order of arrival, and no machine is fast enough for a test to rely on its speed. A test
that needs a request to run, or to wait behind another, arranges that by state: `hold` keeps an instance busy until the
test lets it go, `queue` adds requests of which it is known that they wait.
"""

from harness.metrics import scrape, value_of
from harness.server import LIMIT_S, wait_until
from harness.wire import request

# Seconds that a held instance would sleep if its call was never canceled: far longer than any test.
HOLD_S = 3000.0


def total(samples, family, model):
    """Return the sum of a model's series of a family; 0 where there is none."""
    return sum(value for (name, labels), value in samples.items() if name == family and ("model", model) in labels)


def pending(server, model):
    """Return how many requests of a model wait, those of a batch that is made ready included."""
    return total(scrape(server), "nv_inference_pending_request_count", model)


def wait_pending(server, model, count):
    """Wait until so many requests of a model wait."""
    wait_until(lambda: pending(server, model) == count, f"{count} requests of {model} wait")


def wait_under_way(server, count):
    """Wait until so many requests of a server have been taken and not been answered."""
    wait_until(lambda: value_of(scrape(server), "alcedo_requests_in_flight") == count, f"{count} requests are under way")


def busy_seconds(samples, model):
    """Return for how long the instances of a model have run; it grows while one runs."""
    return total(samples, "alcedo_instance_busy_seconds_total", model)


def wait_idle(server, model):
    """Wait until no request of a model waits and no instance of it runs."""
    def idle():
        before, after = scrape(server), scrape(server)
        waits = total(before, "nv_inference_pending_request_count", model)
        return waits == 0 and busy_seconds(before, model) == busy_seconds(after, model)

    wait_until(idle, f"{model} has nothing to do")


def nap(model, seconds=HOLD_S, shape=(1,), name="INPUT0", **more):
    """Return a request to a sleep model that takes so long."""
    return request(model, [(name, "FP32", shape, [seconds] * shape[0])], **more)


def send(stub, *messages, timeout=LIMIT_S):
    """Start a call for each message. They may overtake each other on their way in."""
    return [stub.ModelInfer.future(message, timeout=timeout) for message in messages]


def hold(server, message, stub=None):
    """Start a call to a model that has nothing to do, and return it when an instance runs it.

    Cancel the call to let the instance go: the kind `sleep`, and a delay of an execution, end with their client.
    """
    model = message.model_name
    wait_idle(server, model)
    before = busy_seconds(scrape(server), model)
    (call,) = send(stub or server.stub(), message, timeout=HOLD_S)
    wait_until(lambda: call.done() or busy_seconds(scrape(server), model) > before, f"{model} runs a request")
    assert not call.done(), f"the request that was to hold {model} ended: {call.exception()}"
    return call


def queue(server, stub, message, count):
    """Start a call, and return it when so many requests of its model wait."""
    (call,) = send(stub, message)
    wait_pending(server, message.model_name, count)
    return call
