"""ModelStreamInfer: order, final flags, decoupled models, errors that do not end it, cancels."""

import queue

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.server import wait_until
from harness.state import hold, nap
from harness.wire import INVALID, outputs_of, parameters_of, refused, request

LIMIT_S = 60

EMPTY_FINAL = {"triton_enable_empty_final_response": True}


def converse(stub, messages, metadata=None):
    """Send all messages on one stream, close this side, return all replies."""
    return list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S, metadata=metadata))


def repeat(values, delays=None, wait=0, model="repeat", **more):
    """Return a request to a repeat model."""
    delays = [0] * len(values) if delays is None else delays
    return request(model, [("IN", "INT32", [len(values)], values), ("DELAY", "UINT32", [len(delays)], delays),
                           ("WAIT", "UINT32", [1], [wait])], **more)


def count(model, number, **more):
    """Return a request to a square or producer model."""
    return request(model, [("IN", "INT32", [1], [number])], **more)


def identity(value, model="identity_fp32", **more):
    """Return a request to an identity model."""
    return request(model, [("INPUT0", "FP32", [1], [value])], **more)


def is_final(reply):
    """Return the final flag that every response on a stream carries."""
    return parameters_of(reply.infer_response)["triton_final_response"]


def test_one_request_one_response(stub):
    (reply,) = converse(stub, [identity(2.5, id="one")])
    assert reply.error_message == ""
    response = reply.infer_response
    assert (response.id, response.model_name, response.model_version) == ("one", "identity_fp32", "1")
    assert list(outputs_of(response)["OUTPUT0"][2]) == [2.5]
    assert is_final(reply) is True


def test_empty_stream(stub):
    assert converse(stub, []) == []


def test_responses_come_in_request_order(stub):
    # The slow requests are sent first, and four instances run them side by side.
    messages = [request("sleep_many", [("INPUT0", "FP32", [1], [delay])], id=str(number))
                for number, delay in enumerate([0.3, 0.0, 0.2, 0.0])]
    messages += [identity(float(number), id=str(number)) for number in range(4, 60)]
    replies = converse(stub, messages)
    assert [reply.infer_response.id for reply in replies] == [str(number) for number in range(60)]
    assert all(is_final(reply) for reply in replies)


def test_decoupled_without_the_empty_final_response(stub):
    replies = converse(stub, [repeat([4, 5, 6], id="r")])
    got = [outputs_of(reply.infer_response) for reply in replies]
    assert [int(outputs["OUT"][2][0]) for outputs in got] == [4, 5, 6]
    assert [int(outputs["IDX"][2][0]) for outputs in got] == [0, 1, 2]
    assert [is_final(reply) for reply in replies] == [False, False, False]
    assert all(reply.infer_response.id == "r" for reply in replies)


def test_decoupled_with_the_empty_final_response(stub):
    replies = converse(stub, [repeat([4, 5, 6], id="r", parameters=EMPTY_FINAL)])
    assert [is_final(reply) for reply in replies] == [False, False, False, True]
    last = replies[-1].infer_response
    assert (last.id, last.model_name, last.model_version, len(last.outputs)) == ("r", "repeat", "1", 0)


def test_decoupled_without_responses(stub):
    assert converse(stub, [repeat([])]) == []
    (reply,) = converse(stub, [repeat([], id="none", parameters=EMPTY_FINAL)])
    assert is_final(reply) and reply.infer_response.id == "none" and not reply.infer_response.outputs


def test_repeat_not_decoupled_gives_one_response(stub):
    (reply,) = converse(stub, [repeat([7, 8], model="repeat_unary")])
    assert int(outputs_of(reply.infer_response)["OUT"][2][0]) == 7 and is_final(reply)


def test_square(stub):
    replies = converse(stub, [count("square", 4, parameters=EMPTY_FINAL)])
    values = [int(outputs_of(reply.infer_response)["OUT"][2][0]) for reply in replies if reply.infer_response.outputs]
    assert values == [4, 4, 4, 4]
    assert [is_final(reply) for reply in replies] == [False] * (len(replies) - 1) + [True]


def test_square_whose_responses_fail(stub):
    # Of five, the last is empty and two before it are errors.
    replies = converse(stub, [count("square_some_fail", 5, id="s", parameters=EMPTY_FINAL)])
    assert [bool(reply.error_message) for reply in replies] == [False, False, True, True, False]
    assert [len(reply.infer_response.outputs) for reply in replies] == [1, 1, 0, 0, 0]
    assert all(reply.infer_response.id == "s" for reply in replies)


def test_producer(stub):
    replies = converse(stub, [count("producer", 20, parameters=EMPTY_FINAL)])
    values = [float(outputs_of(reply.infer_response)["OUT"][2][0]) for reply in replies if reply.infer_response.outputs]
    assert values == [2.5] * 20
    assert is_final(replies[-1])


def test_decoupled_requests_interleave_and_are_told_apart_by_id(stub):
    conversation = Conversation(stub)
    # The slow one has begun before the fast one is sent, and goes on for far longer than that takes.
    conversation.send(repeat([1] * 5, [0] + [500] * 4, id="slow"))
    replies = [conversation.receive()]
    conversation.send(repeat([2] * 5, [0] * 5, id="fast"))
    conversation.close()
    replies += list(conversation.call)
    order = [reply.infer_response.id for reply in replies]
    assert order.count("slow") == order.count("fast") == 5
    assert order[0] == order[-1] == "slow" and "fast" in order[:6]


def test_decoupled_does_not_wait_behind_others(zoo):
    held = hold(zoo, nap("sleep"))
    conversation = Conversation(zoo.stub())
    conversation.send(nap("sleep", 0.0, id="sleep"))
    conversation.send(repeat([1], id="repeat"))
    replies = [conversation.receive()]
    assert not held.done()
    held.cancel()
    conversation.close()
    replies += list(conversation.call)
    assert [reply.infer_response.id for reply in replies] == ["repeat", "sleep"]


def test_many_models_on_one_stream(stub):
    messages, models = [], ["identity_fp32", "batch_fp32", "repeat", "sleep"]
    for number in range(200):
        model = models[number % len(models)]
        if model == "repeat":
            messages.append(repeat([number], id=str(number)))
        elif model == "batch_fp32":
            messages.append(request(model, [("INPUT0", "FP32", [1, 1], [float(number)])], id=str(number)))
        else:
            messages.append(identity(0.0 if model == "sleep" else float(number), model, id=str(number)))
    replies = converse(stub, messages)
    got = {reply.infer_response.id: reply.infer_response for reply in replies}
    assert len(replies) == len(got) == 200
    for number in range(200):
        response = got[str(number)]
        assert response.model_name == models[number % len(models)]
        if response.model_name in ("identity_fp32", "batch_fp32"):
            assert float(outputs_of(response)["OUTPUT0"][2][0]) == float(number)


ERRORS = {
    "unknown model": (identity(1.0, "nobody", id="bad"), "nobody", r"unknown model: 'nobody' is not found"),
    "unknown version": (identity(1.0, version="9", id="bad"), "identity_fp32", r"version 9 is not found"),
    "bad version": (identity(1.0, version="x", id="bad"), "identity_fp32", r"version string 'x'"),
    "unknown output": (identity(1.0, outputs=["X"], id="bad"), "identity_fp32", r"unexpected inference output 'X'"),
    "wrong size": (request("identity_fp32", [("INPUT0", "FP32", [1], b"abc")], id="bad"), "identity_fp32",
                   r"\[request id: bad\] input byte size mismatch"),
    "reserved parameter": (identity(1.0, id="bad", parameters={"triton_x": 1}), "identity_fp32", r"reserved"),
    "decoupled model": (repeat([1], [0, 0], id="bad"), "repeat", r"expected IN and DELAY shape to match, got \[1\] "
                                                                 r"and \[2\]"),
}


@pytest.mark.parametrize("situation", ERRORS)
def test_error_does_not_end_the_stream(stub, situation):
    bad, model, pattern = ERRORS[situation]
    replies = converse(stub, [identity(1.0, id="before"), bad, identity(2.0, id="after")])
    by_id = {reply.infer_response.id: reply for reply in replies}
    assert set(by_id) == {"before", "bad", "after"}
    assert np.array_equal(outputs_of(by_id["after"].infer_response)["OUTPUT0"][2], [2.0])
    assert not by_id["before"].error_message and not by_id["after"].error_message
    with refused(None, pattern):
        raise triton.InferenceServerException(by_id["bad"].error_message)
    assert by_id["bad"].infer_response.model_name == model


@pytest.mark.parametrize("situation", ["unknown model", "wrong size"])
def test_triton_grpc_error_ends_the_stream_with_the_code(stub, situation):
    bad, _, pattern = ERRORS[situation]
    call = stub.ModelStreamInfer(iter([identity(1.0, id="before"), bad, identity(2.0, id="after")]), timeout=LIMIT_S,
                                 metadata=[("triton_grpc_error", "true")])
    assert next(call).infer_response.id == "before"
    with refused(INVALID, pattern):
        list(call)


class Conversation:
    """A stream that is kept open: messages are given one by one."""

    def __init__(self, stub):
        self._messages = queue.Queue(maxsize=1000)
        self.call = stub.ModelStreamInfer(iter(self._messages.get, None), timeout=LIMIT_S)

    def send(self, message):
        """Send one message."""
        self._messages.put(message, timeout=LIMIT_S)

    def receive(self):
        """Wait for one reply."""
        return next(self.call)

    def close(self):
        """Close this side."""
        self._messages.put(None, timeout=LIMIT_S)


def test_a_stream_answers_while_it_is_open(stub):
    conversation = Conversation(stub)
    for number in range(5):
        conversation.send(identity(float(number), id=str(number)))
        assert conversation.receive().infer_response.id == str(number)
    conversation.close()
    assert list(conversation.call) == []
    assert conversation.call.code() == grpc.StatusCode.OK


def test_half_close_drains(stub):
    conversation = Conversation(stub)
    conversation.send(repeat([1, 2, 3], [60, 60, 60], id="r"))
    conversation.send(request("sleep", [("INPUT0", "FP32", [1], [0.1])], id="s"))
    conversation.close()
    ids = [reply.infer_response.id for reply in conversation.call]
    assert sorted(ids) == ["r", "r", "r", "s"]
    assert conversation.call.code() == grpc.StatusCode.OK


def test_cancel_of_a_stream_frees_the_instance(stub):
    # A producer holds its only instance: 100,000 responses of 1 ms each would take minutes.
    conversation = Conversation(stub)
    conversation.send(count("producer", 100_000))
    conversation.receive()
    conversation.call.cancel()
    conversation.close()
    replies = converse(stub, [count("producer", 2)])
    assert len(replies) == 2


def response_statistics(stub, model):
    """Return the response_stats of a model."""
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S).model_stats
    return statistics.response_stats


def test_cancel_of_a_stream_is_counted(stub):
    conversation = Conversation(stub)
    conversation.send(count("square_slow", 100_000))
    for _ in range(3):
        conversation.receive()
    conversation.call.cancel()
    conversation.close()
    wait_until(lambda: sum(each.cancel.count for each in response_statistics(stub, "square_slow").values()) == 1,
               "the model notices the cancel and counts it")


def test_tritonclient_stream(zoo):
    client = zoo.client()
    results = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)), stream_timeout=LIMIT_S)
    inputs = [triton.InferInput("IN", [3], "INT32"), triton.InferInput("DELAY", [3], "UINT32"),
              triton.InferInput("WAIT", [1], "UINT32")]
    for tensor, values in zip(inputs, ([1, 2, 3], [0, 0, 0], [0])):
        kind = np.int32 if tensor.name() == "IN" else np.uint32
        tensor.set_data_from_numpy(np.array(values, kind))
    client.async_stream_infer("repeat", inputs, request_id="r", enable_empty_final_response=True)
    got = []
    while True:
        result, error = results.get(timeout=LIMIT_S)
        assert error is None
        response = result.get_response()
        got += [] if not response.outputs else result.as_numpy("OUT").tolist()
        if response.parameters["triton_final_response"].bool_param:
            break
    assert got == [1, 2, 3]
    wrong = triton.InferInput("INPUT0", [1], "FP32")
    wrong.set_data_from_numpy(np.ones(1, np.float32))
    client.async_stream_infer("nobody", [wrong], request_id="bad")
    result, error = results.get(timeout=LIMIT_S)
    assert result is None and "unknown model: 'nobody' is not found" in error.message()
    client.async_stream_infer("identity_fp32", [wrong], request_id="good")
    result, error = results.get(timeout=LIMIT_S)
    assert error is None and result.as_numpy("OUTPUT0").tolist() == [1.0]
    client.stop_stream()


@pytest.mark.parametrize("copies", [1, 3])
def test_mock_llm(stub, copies):
    message = request("mock_llm", [("PROMPT", "BYTES", [1, 1], [b"hello"]), ("STREAM", "BOOL", [1, 1], [True])],
                      parameters={"REPETITION": copies, **EMPTY_FINAL})
    replies = converse(stub, [message])
    assert not any(reply.error_message for reply in replies)
    texts = [outputs_of(reply.infer_response)["TEXT"][2] for reply in replies if reply.infer_response.outputs]
    assert len(texts) == copies
    assert is_final(replies[-1])


def test_mock_llm_without_streaming(stub):
    message = request("mock_llm", [("PROMPT", "BYTES", [1, 1], [b"hello"]), ("STREAM", "BOOL", [1, 1], [False])],
                      parameters={"REPETITION": 3})
    (reply,) = converse(stub, [message])
    assert is_final(reply) and outputs_of(reply.infer_response)["TEXT"][2]
