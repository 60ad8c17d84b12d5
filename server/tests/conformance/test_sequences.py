"""Sequence batching: both strategies, controls, states, time limits, texts, ensembles."""

import concurrent.futures
import queue
import random
import re
import struct

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from harness.models import DECOUPLED, config, ensemble, write
from harness.server import LIMIT_S, Server, wait_until
from harness.state import hold, pending, send, wait_pending
from harness.state import queue as queue_up
from harness.wire import INVALID, UNAVAILABLE, outputs_of, refused, request


def says(code, text, call, whole=False):
    """Expect a call to fail with this code and a text that has (or, with `whole`, is) `text`."""
    with refused(code, f"^{re.escape(text)}$" if whole else re.escape(text)):
        call()


def controls(encoding="int32_false_true: [ 0, 1 ]", corrid="TYPE_UINT64", kinds=("START", "READY", "END")):
    """Return the text of control inputs named as their kinds."""
    lines = [f'control_input {{ name: "{kind}" control {{ kind: CONTROL_SEQUENCE_{kind} {encoding} }} }}' for kind in kinds]
    if corrid:
        lines.append(f'control_input {{ name: "CORRID" control {{ kind: CONTROL_SEQUENCE_CORRID data_type: {corrid} }} }}')
    return "\n".join(lines)


STATE = ('state {{ input_name: "SUM_IN" output_name: "SUM_OUT" data_type: {type} dims: {dims} {more} }}')


def state(datatype="TYPE_INT32", dims="[ 1 ]", more=""):
    """Return the text of the model's state."""
    return STATE.format(type=datatype, dims=dims, more=more)


# By default a sequence ends after a second without a request, which a busy machine may take between two of them.
PATIENT = "max_sequence_idle_microseconds: 3000000000"


def write_sum(repository, name, sequence, max_batch_size=4, datatype="INT32", dims=(1,), outputs=(), instances=1,
              parameters=None, extra="", files=None, kind="sequence_sum", idle=PATIENT):
    """Write a sequence_sum model."""
    group = f"instance_group [ {{ count: {instances}, kind: KIND_CPU }} ]"
    sequence = f"{idle}\n{sequence}"
    text = config(name, kind, [("INPUT", datatype, dims)], [("OUTPUT", datatype, dims), *outputs], max_batch_size,
                  parameters, f"sequence_batching {{ {sequence} }}\n{group}\n{extra}")
    return write(repository, name, text, files=files)


PLACES = (("INSTANCE", "INT32", [1]), ("SLOT", "INT32", [1]))
ECHOES = {
    "int32": ("int32_false_true: [ 7, 9 ]", "INT32", 7, 9),
    "fp32": ("fp32_false_true: [ -0.5, 2.5 ]", "FP32", -0.5, 2.5),
    "bool": ("bool_false_true: [ false, true ]", "BOOL", False, True),
    "bool_reversed": ("bool_false_true: [ true, false ]", "BOOL", True, False),
}
CORRIDS = {"UINT64": "TYPE_UINT64", "INT64": "TYPE_INT64", "UINT32": "TYPE_UINT32", "INT32": "TYPE_INT32",
           "BYTES": "TYPE_STRING"}


def write_sequences(repository):
    """Write the models that most tests share."""
    write_sum(repository, "direct", controls(), outputs=PLACES)
    write_sum(repository, "direct_flat", controls(), max_batch_size=0, instances=2, outputs=PLACES)
    write_sum(repository, "direct_state", state(), outputs=PLACES)
    write_sum(repository, "oldest", f"oldest {{ max_candidate_sequences: 4 }}\n{controls()}\n{state()}", outputs=PLACES,
              instances=2)
    write_sum(repository, "defaults", f"oldest {{ max_candidate_sequences: 4 }}\n{controls()}\n{state()}", outputs=PLACES,
              idle="")
    write_sum(repository, "oldest_fp32", f"oldest {{ max_candidate_sequences: 4 }}\n{state('TYPE_FP32', '[ 2 ]')}",
              datatype="FP32", dims=[2])
    write_sum(repository, "variable", f"oldest {{ max_candidate_sequences: 4 }}\n"
              + state(dims="[ -1 ]", more='initial_state { name: "none" data_type: TYPE_INT32 dims: [ 3 ] zero_data: true }'),
              dims=[-1])
    write_sum(repository, "from_file", state(
        dims="[ 2 ]", more='initial_state { name: "first" data_type: TYPE_INT32 dims: [ 2 ] data_file: "first.bin" }'), dims=[2],
        files={"initial_state/first.bin": struct.pack("<ii", 100, 1).decode()})
    for name, (encoding, datatype, *_) in ECHOES.items():
        write_sum(repository, f"echo_{name}", controls(encoding), outputs=[
            ("ECHO_START", datatype, [1]), ("ECHO_READY", datatype, [1]), ("ECHO_END", datatype, [1]),
            ("ECHO_CORRID", "UINT64", [1])])
    for name, datatype in CORRIDS.items():
        write_sum(repository, f"corrid_{name.lower()}", controls(corrid=datatype), outputs=[("ECHO_CORRID", name, [1])])
    write(repository, "in_ensemble", ensemble(
        "in_ensemble", [("X", "INT32", [1])], [("Y", "INT32", [1]), ("Z", "INT32", [1])],
        [("oldest", {"INPUT": "X"}, {"OUTPUT": "Y"}), ("direct", {"INPUT": "Y"}, {"OUTPUT": "Z"})], 1))
    write(repository, "repeat_sequence", config(
        "repeat_sequence", "repeat", [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])],
        [("OUT", "INT32", [1]), ("IDX", "UINT32", [1])],
        extra=f"{DECOUPLED}\nsequence_batching {{ {PATIENT} oldest {{ max_candidate_sequences: 2 }} }}"))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """A server with sequence models."""
    repository = tmp_path_factory.mktemp("sequences")
    write_sequences(repository)
    with Server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def calls(sequences):
    """The raw stub of the shared server."""
    return sequences.stub()


def options(sequence, start=False, end=False, **more):
    """Return the parameters of a request of a sequence."""
    return {"sequence_id": sequence, "sequence_start": start, "sequence_end": end, **more}


def step(model, value, sequence, start=False, end=False, batch=True, datatype="INT32", id="", **more):
    """Return one request of a sequence."""
    values = value if isinstance(value, (list, tuple)) else [value]
    shape = [1, len(values)] if batch else [len(values)]
    return request(model, [("INPUT", datatype, shape, values)], id=id,
                   parameters=options(sequence, start, end, **more))


def output(response, name="OUTPUT"):
    """Return the flat list of one output."""
    return list(outputs_of(response)[name][2])


def run(stub, model, values, sequence, **more):
    """Run one sequence by unary calls, return the first element of each sum."""
    last = len(values) - 1
    return [output(stub.ModelInfer(step(model, value, sequence, number == 0, number == last, **more), timeout=LIMIT_S))[0]
            for number, value in enumerate(values)]


def count(server, model, version="1"):
    """Return the statistics of a model."""
    reply = server.stub().ModelStatistics(pb.ModelStatisticsRequest(name=model, version=version), timeout=LIMIT_S)
    return reply.model_stats[0]


def test_the_extension_is_listed(sequences):
    assert "sequence" in sequences.client().get_server_metadata().extensions


@pytest.mark.parametrize("model", ["direct", "direct_state", "oldest", "direct_flat"])
@pytest.mark.parametrize("sequence", [17, "a name"])
def test_a_sequence(calls, model, sequence):
    if sequence == "a name" and model in ("direct", "oldest", "direct_flat"):
        # Their control input is a number.
        says(INVALID, f"correlation ID 'a name' of an inference request to model '{model}' does not fit",
                lambda: run(calls, model, [1], sequence, batch=model != "direct_flat"))
        return
    assert run(calls, model, [1, 2, 3, 4], sequence, batch=model != "direct_flat") == [1, 3, 6, 10]
    # The next one begins anew.
    assert run(calls, model, [5, 6], sequence, batch=model != "direct_flat") == [5, 11]


@pytest.mark.parametrize("model", ["direct", "direct_state", "oldest", "direct_flat"])
def test_interleaved_sequences(calls, model):
    batch = model != "direct_flat"
    totals = {sequence: 0 for sequence in range(1, 3)}
    for number in range(8):
        for sequence in totals:
            value = 10 * sequence + number
            totals[sequence] += value
            reply = calls.ModelInfer(step(model, value, sequence, number == 0, number == 7, batch), timeout=LIMIT_S)
            assert output(reply) == [totals[sequence]]


def test_direct_sequences_keep_their_rows(calls):
    slots = {}
    for number in range(3):
        for sequence in (1, 2, 3):
            reply = calls.ModelInfer(step("direct", 1, sequence, number == 0, number == 2), timeout=LIMIT_S)
            slots.setdefault(sequence, []).append(output(reply, "SLOT")[0])
    assert slots == {1: [0, 0, 0], 2: [1, 1, 1], 3: [2, 2, 2]}


def test_direct_sequences_spread_over_instances_and_stay(calls):
    places = {}
    for number in range(3):
        for sequence in (1, 2):
            reply = calls.ModelInfer(step("direct_flat", 1, sequence, number == 0, number == 2, False), timeout=LIMIT_S)
            places.setdefault(sequence, set()).add(output(reply, "INSTANCE")[0])
    assert sorted(len(place) for place in places.values()) == [1, 1] and places[1] != places[2]


def test_oldest_sequences_stay_on_their_instance(calls):
    places = {}
    for number in range(4):
        for sequence in (1, 2, 3, 4):
            reply = calls.ModelInfer(step("oldest", 1, sequence, number == 0, number == 3), timeout=LIMIT_S)
            places.setdefault(sequence, set()).add(output(reply, "INSTANCE")[0])
    assert all(len(place) == 1 for place in places.values())
    assert len(set.union(*places.values())) == 2


@pytest.mark.parametrize("model", ["direct", "direct_state", "oldest"])
def test_many_sequences_at_once_over_one_stream(calls, model):
    names = list(range(1, 41))
    messages = [step(model, sequence + number, sequence, number == 0, number == 9, id=f"{sequence}/{number}")
                for number in range(10) for sequence in names]
    replies = list(calls.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [reply.error_message for reply in replies if reply.error_message] == []
    sums = {}
    for reply in replies:
        sequence, number = (int(part) for part in reply.infer_response.id.split("/"))
        sums[sequence] = sums.get(sequence, 0) + sequence + number
        assert output(reply.infer_response) == [sums[sequence]]
    assert len(replies) == 400


@pytest.mark.parametrize("model", ["direct", "direct_state", "oldest"])
def test_many_sequences_at_once_over_unary_calls(sequences, model):
    def one(sequence):
        stub = sequences.stub()
        values = [sequence * number for number in range(1, 21)]
        return run(stub, model, values, 1000 + sequence) == list(np.cumsum(values))
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(1, 33)))


def test_tritonclient_speaks_sequences(sequences):
    client = sequences.client()
    results = queue.Queue()
    client.start_stream(lambda result, error: results.put((result, error)))
    for number in range(3):
        given = triton.InferInput("INPUT", [1, 1], "INT32")
        given.set_data_from_numpy(np.array([[number + 1]], dtype=np.int32))
        client.async_stream_infer("direct_state", [given], sequence_id="by name", sequence_start=number == 0,
                                  sequence_end=number == 2)
    got = [results.get(timeout=LIMIT_S) for _ in range(3)]
    client.stop_stream()
    assert [error for _, error in got] == [None] * 3
    assert [int(result.as_numpy("OUTPUT")[0, 0]) for result, _ in got] == [1, 3, 6]


@pytest.mark.parametrize("name", ECHOES)
def test_controls_in_each_encoding(calls, name):
    _, datatype, no, yes = ECHOES[name]
    for number, (start, end) in enumerate([(True, False), (False, False), (False, True)]):
        reply = calls.ModelInfer(step(f"echo_{name}", 1, 2 ** 40 + 5, start, end), timeout=LIMIT_S)
        flags = [output(reply, f"ECHO_{kind}")[0] for kind in ("START", "READY", "END")]
        assert flags == [yes if start else no, yes, yes if end else no], number
        assert output(reply, "ECHO_CORRID") == [2 ** 40 + 5]


@pytest.mark.parametrize("datatype", CORRIDS)
def test_correlation_ids_in_each_datatype(calls, datatype):
    model = f"corrid_{datatype.lower()}"
    reply = calls.ModelInfer(step(model, 1, 321, True, True), timeout=LIMIT_S)
    assert output(reply, "ECHO_CORRID") == ([b"321"] if datatype == "BYTES" else [321])
    if datatype == "BYTES":
        reply = calls.ModelInfer(step(model, 1, "a näme", True, True), timeout=LIMIT_S)
        assert output(reply, "ECHO_CORRID") == ["a näme".encode()]
    elif datatype in ("UINT32", "INT32"):
        says(INVALID, f"correlation ID '{2 ** 40}' of an inference request to model '{model}' does not fit the model's "
                f"control input of {datatype}", lambda: calls.ModelInfer(step(model, 1, 2 ** 40, True, True)))


def test_state_of_two_elements(calls):
    replies = [calls.ModelInfer(step("oldest_fp32", [0.5, number], "s", number == 0, number == 2, datatype="FP32"),
                                timeout=LIMIT_S) for number in range(3)]
    assert [output(reply) for reply in replies] == [[0.5, 0.0], [1.0, 1.0], [1.5, 3.0]]


def test_state_begins_with_a_file(calls):
    for _ in range(2):
        first = calls.ModelInfer(step("from_file", [1, 1], 3, True), timeout=LIMIT_S)
        second = calls.ModelInfer(step("from_file", [1, 1], 3, False, True), timeout=LIMIT_S)
        assert (output(first), output(second)) == ([101, 2], [102, 3])


def test_state_begins_anew_with_start(calls):
    assert output(calls.ModelInfer(step("direct_state", 5, 44, True), timeout=LIMIT_S)) == [5]
    assert output(calls.ModelInfer(step("direct_state", 6, 44), timeout=LIMIT_S)) == [11]
    # The sequence is under way: it goes on, and its state begins anew.
    assert output(calls.ModelInfer(step("direct_state", 7, 44, True), timeout=LIMIT_S)) == [7]
    assert output(calls.ModelInfer(step("direct_state", 8, 44, False, True), timeout=LIMIT_S)) == [15]


def test_states_never_leave_the_server(calls, sequences):
    reply = calls.ModelInfer(step("oldest", 5, 7, True, True), timeout=LIMIT_S)
    assert [each.name for each in reply.outputs] == ["OUTPUT", "INSTANCE", "SLOT"]
    metadata = sequences.client().get_model_metadata("oldest")
    assert [each.name for each in metadata.inputs] == ["INPUT"]
    assert [each.name for each in metadata.outputs] == ["OUTPUT", "INSTANCE", "SLOT"]
    message = step("oldest", 5, 7, True, True)
    message.outputs.add().name = "SUM_OUT"
    says(INVALID, "unexpected inference output 'SUM_OUT' for model 'oldest'", lambda: calls.ModelInfer(message))


@pytest.mark.parametrize("name", ["SUM_IN", "START", "CORRID"])
def test_clients_send_no_controls_and_states(calls, name):
    message = request("oldest", [(name, "INT32", [1, 1], [1])], parameters=options(1, True))
    says(INVALID, f"unexpected inference input '{name}' for model 'oldest'", lambda: calls.ModelInfer(message))
    message = request("oldest", [("INPUT", "INT32", [1, 1], [1]), (name, "INT32", [1, 1], [1])],
                      parameters=options(1, True))
    says(INVALID, "expected 1 inputs but got 2 inputs for model 'oldest'", lambda: calls.ModelInfer(message))


def test_an_error_of_the_model_leaves_the_sequence_as_it_was(calls):
    replies = []
    for number, values in enumerate([[1, 2, 3], [1, 1], [1, 1, 1]]):
        call = lambda: calls.ModelInfer(step("variable", values, 9, number == 0, number == 2), timeout=LIMIT_S)
        if len(values) == 2:
            says(INVALID, "expected INPUT of the sequence's shape [1,3], got [1,2]", call)
        else:
            replies.append(output(call()))
    assert replies == [[1, 2, 3], [2, 3, 4]]


def test_texts(calls):
    says(INVALID, "inference request to model 'direct' must specify a non-zero or non-empty correlation ID",
            lambda: calls.ModelInfer(step("direct", 1, 0, True)), whole=True)
    says(INVALID, "inference request to model 'direct' must specify a non-zero or non-empty correlation ID",
            lambda: calls.ModelInfer(request("direct", [("INPUT", "INT32", [1, 1], [1])])), whole=True)
    for sequence in (987, "no such"):
        model = "direct_state"
        says(INVALID, f"inference request for sequence {sequence} to model '{model}' must specify the START flag on the "
                "first request of the sequence", lambda: calls.ModelInfer(step(model, 1, sequence)), whole=True)
    says(INVALID, "inference request to model 'direct' must specify batch-size 1 due to requirements of sequence batcher",
            lambda: calls.ModelInfer(request("direct", [("INPUT", "INT32", [2, 1], [1, 1])],
                                             parameters=options(1, True))), whole=True)
    says(INVALID, "correlation ID of an inference request to model 'direct_state' must have at most 128 bytes, got 129",
            lambda: calls.ModelInfer(step("direct_state", 1, "x" * 129, True)), whole=True)


def test_after_its_end_a_sequence_must_start_again(calls):
    run(calls, "direct_state", [1, 2], 55)
    says(INVALID, "must specify the START flag", lambda: calls.ModelInfer(step("direct_state", 1, 55)))


def test_statistics_count_requests_and_not_padding(repository):
    write_sum(repository, "counted", controls())
    with Server(repository) as server:
        stub = server.stub()
        for sequence in (1, 2, 3):
            stub.ModelInfer(step("counted", 1, sequence, True), timeout=LIMIT_S)
        # Rows 0 and 1 are padding.
        stub.ModelInfer(step("counted", 1, 3, False, True), timeout=LIMIT_S)
        counted = count(server, "counted")
        assert (counted.inference_count, counted.execution_count) == (4, 4)
        assert counted.inference_stats.success.count == 4
        assert {each.batch_size: each.compute_infer.count for each in counted.batch_stats} == {1: 1, 2: 1, 3: 2}


def test_sequences_are_batched(repository):
    write_sum(repository, "slow", controls(), parameters={"execute_delay_ms": "200"})
    write_sum(repository, "slow_oldest", f"oldest {{ max_candidate_sequences: 4 }} {state()}",
              parameters={"execute_delay_ms": "200"})
    with Server(repository) as server:
        stub = server.stub()
        for model in ("slow", "slow_oldest"):
            messages = [step(model, 1, sequence, number == 0, number == 4) for number in range(5) for sequence in (1, 2, 3, 4)]
            replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
            assert [reply.error_message for reply in replies] == [""] * 20
            counted = count(server, model)
            assert counted.inference_count == 20
            # Four sequences, five requests each: not many more executions than five.
            assert counted.execution_count <= 12
            assert max(each.batch_size for each in counted.batch_stats) == 4


def test_an_idle_sequence_ends(repository):
    write_sum(repository, "idle", state(), max_batch_size=1, idle="max_sequence_idle_microseconds: 200000")
    with Server(repository) as server:
        stub = server.stub()
        assert output(stub.ModelInfer(step("idle", 1, 1, True), timeout=LIMIT_S)) == [1]
        # The second sequence waits in the backlog until the first has been idle for long enough. It is never idle itself:
        # all of its requests are there from the beginning.
        messages = [step("idle", 5, 2, True), step("idle", 6, 2, False, True)]
        replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
        assert [output(reply.infer_response) for reply in replies] == [[5], [11]]
        says(INVALID, "inference request for sequence 1 to model 'idle' must specify the START flag",
                lambda: stub.ModelInfer(step("idle", 1, 1)))


def test_a_timeout_in_the_backlog(repository):
    write_sum(repository, "one", state(), max_batch_size=1)
    with Server(repository) as server:
        stub = server.stub()
        stub.ModelInfer(step("one", 1, 1, True), timeout=LIMIT_S)
        messages = [step("one", 5, 2, True, id="a"), step("one", 5, 2, id="b", timeout=100000), step("one", 5, 2, id="c")]
        replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
        assert [reply.infer_response.id for reply in replies] == ["a", "b", "c"]
        assert {reply.error_message for reply in replies[:2]} == {"timeout of the corresponding sequence has been expired"}
        # The third may have come after the sequence ended.
        assert replies[2].error_message
        says(UNAVAILABLE, "timeout of the corresponding sequence has been expired",
                lambda: stub.ModelInfer(step("one", 5, 3, True, timeout=50000)), whole=True)
        assert output(stub.ModelInfer(step("one", 1, 1, False, True), timeout=LIMIT_S)) == [2]
        assert output(stub.ModelInfer(step("one", 9, 2, True, True), timeout=LIMIT_S)) == [9]


def test_a_timeout_of_a_sequence_under_way_ends_it(repository):
    # The first request runs for far longer than the second, which comes right behind it, may wait.
    write_sum(repository, "slow", state(), parameters={"execute_delay_ms": "1500"})
    with Server(repository) as server:
        stub = server.stub()
        messages = [step("slow", 1, 1, True, id="a"), step("slow", 1, 1, id="b", timeout=50000), step("slow", 1, 1, id="c")]
        replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
        assert [reply.error_message for reply in replies] == [
            "", "Request timeout expired", "timeout of the corresponding sequence has been expired"]
        says(INVALID, "must specify the START flag", lambda: stub.ModelInfer(step("slow", 1, 1)))
        assert count(server, "slow").inference_count == 1


def test_a_cancel_ends_the_sequence(repository):
    # Two sequences run together or not at all, so that a request of one waits for as long as none comes of the other.
    write_sum(repository, "pair", f"direct {{ max_queue_delay_microseconds: 3000000000 minimum_slot_utilization: 1.0 }} {state()}",
              max_batch_size=2)
    with Server(repository) as server:
        stub = server.stub()
        started = send(stub, step("pair", 1, 1, True), step("pair", 10, 2, True))
        assert [output(call.result()) for call in started] == [[1], [10]]
        waiting = queue_up(server, stub, step("pair", 1, 1), 1)
        waiting.cancel()
        wait_pending(server, "pair", 0)
        says(INVALID, "must specify the START flag", lambda: stub.ModelInfer(step("pair", 1, 1)))
        # The place is free again, and the other sequence is as it was.
        both = send(stub, step("pair", 5, 3, True), step("pair", 1, 2))
        assert [output(call.result()) for call in both] == [[5], [11]]
        counted = count(server, "pair")
        assert (counted.inference_count, counted.execution_count) == (4, 2)


def test_a_cancel_in_the_backlog_ends_the_sequence(repository):
    write_sum(repository, "one", state(), max_batch_size=1)
    with Server(repository) as server:
        stub = server.stub()
        stub.ModelInfer(step("one", 1, 1, True), timeout=LIMIT_S)
        waiting = queue_up(server, stub, step("one", 1, 2, True), 1)
        waiting.cancel()
        wait_pending(server, "one", 0)
        says(INVALID, "must specify the START flag", lambda: stub.ModelInfer(step("one", 1, 2)))
        assert output(stub.ModelInfer(step("one", 1, 1, False, True), timeout=LIMIT_S)) == [2]


def test_the_queue_is_bounded(repository):
    write_sum(repository, "short", state(), max_batch_size=1,
              parameters={"max_queue_size": "2"})
    with Server(repository) as server:
        stub = server.stub()
        stub.ModelInfer(step("short", 1, 1, True), timeout=LIMIT_S)
        waiting = send(stub, *[step("short", 1, sequence, True, True) for sequence in (2, 3)])
        wait_pending(server, "short", 2)
        says(UNAVAILABLE, "Exceeds maximum queue size", lambda: stub.ModelInfer(step("short", 1, 4, True)))
        # The sequence under way is refused too, and not harmed: the same request may be sent again.
        says(UNAVAILABLE, "Exceeds maximum queue size", lambda: stub.ModelInfer(step("short", 1, 1)))
        for call in waiting:
            call.cancel()
        wait_pending(server, "short", 0)
        assert output(stub.ModelInfer(step("short", 1, 1, False, True), timeout=LIMIT_S)) == [2]


def test_minimum_slot_utilization(repository):
    write_sum(repository, "patient", "direct { max_queue_delay_microseconds: 60000000 minimum_slot_utilization: 1.0 }\n"
              + controls(), max_batch_size=2, outputs=PLACES)
    with Server(repository) as server:
        stub = server.stub()
        first = queue_up(server, stub, step("patient", 1, 1, True), 1)
        assert count(server, "patient").inference_count == 0
        second = stub.ModelInfer(step("patient", 2, 2, True), timeout=LIMIT_S)
        assert (output(first.result()), output(second)) == ([1], [2])
        assert [(each.batch_size, each.compute_infer.count) for each in count(server, "patient").batch_stats] == [(2, 1)]


def test_a_wait_for_more_sequences_ends_when_the_server_stops(repository):
    write_sum(repository, "patient", "direct { max_queue_delay_microseconds: 60000000 minimum_slot_utilization: 1.0 }\n"
              + controls(), max_batch_size=2)
    with Server(repository) as server:
        waiting = queue_up(server, server.stub(), step("patient", 1, 1, True), 1)
        server.terminate()
        assert output(waiting.result()) == [1]
        assert server.wait_exit() == 0


def test_a_decoupled_model_answers_in_order(calls):
    def repeat(values, start, end, id):
        return request("repeat_sequence", [("IN", "INT32", [len(values)], values),
                                           ("DELAY", "UINT32", [len(values)], [20] * len(values)),
                                           ("WAIT", "UINT32", [1], [0])], id=id, parameters=options(5, start, end))
    messages = [repeat([1, 2, 3], True, False, "a"), repeat([4], False, False, "b"), repeat([5, 6], False, True, "c")]
    replies = list(calls.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [(reply.infer_response.id, output(reply.infer_response, "OUT")[0]) for reply in replies] == [
        ("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)]


def test_sequences_in_an_ensemble(calls):
    for sequence in (71, 72):
        got = [calls.ModelInfer(request("in_ensemble", [("X", "INT32", [1, 1], [value])],
                                        parameters=options(sequence, number == 0, number == 2)), timeout=LIMIT_S)
               for number, value in enumerate([1, 2, 3])]
        assert [(output(reply, "Y")[0], output(reply, "Z")[0]) for reply in got] == [(1, 1), (3, 4), (6, 10)]
    says(INVALID, "in ensemble 'in_ensemble', inference request for sequence 73 to model 'oldest' must specify the START flag",
            lambda: calls.ModelInfer(request("in_ensemble", [("X", "INT32", [1, 1], [1])], parameters=options(73))))


def test_an_ensemble_with_sequences_is_not_cached(repository):
    write_sum(repository, "sum", state())
    write(repository, "outer", ensemble("outer", [("X", "INT32", [1])], [("Y", "INT32", [1])],
                                        [("sum", {"INPUT": "X"}, {"OUTPUT": "Y"})], 1,
                                        extra="response_cache { enable: true }"))
    with Server(repository, "--cache-config", "local,size=1048576", load=("sum",)) as server:
        with pytest.raises(InferenceServerException) as failure:
            server.client().load_model("outer")
        assert "'response_cache' cannot be used for ensemble 'outer'" in failure.value.message()


def test_warmup_runs_with_controls_and_states(repository):
    write_sum(repository, "warm", f"{controls()}\n{state()}", extra="""model_warmup {
      name: "one" batch_size: 2 inputs { key: "INPUT" value { data_type: TYPE_INT32 dims: [ 1 ] random_data: true } } }""")
    with Server(repository) as server:
        assert run(server.stub(), "warm", [1, 2], 1) == [1, 3]


@pytest.mark.parametrize("strategy", ["", "oldest { max_candidate_sequences: 3 }"])
def test_cancels_and_timeouts_harm_no_other_sequence(repository, strategy):
    write_sum(repository, "busy", f"{strategy}\n{state()}", max_batch_size=4, instances=2,
              parameters={"execute_delay_ms": "3"})
    answered, failed = [], []

    def one(server, sequence):
        stub, dice = server.stub(), random.Random(sequence)
        total = 0
        for number in range(12):
            more = {"timeout": dice.choice([2000, 20000])} if dice.random() < 0.2 else {}
            call = stub.ModelInfer.future(step("busy", number, sequence, number == 0, number == 11, **more), timeout=LIMIT_S)
            if dice.random() < 0.1:
                call.cancel()
            try:
                total += number
                assert output(call.result()) == [total]
                answered.append(sequence)
            except (grpc.RpcError, grpc.FutureCancelledError) as error:
                # The sequence has a gap, and so it is over.
                failed.append(error)
                wait_until(lambda: ended(stub, sequence), f"sequence {sequence} ends")
                return

    def ended(stub, sequence):
        # A cancel may never have reached the server, which then waits for more of the sequence: this ends it. One that
        # is on its way takes along what comes before it.
        (call,) = send(stub, step("busy", 0, sequence, True, True))
        return call.code() == grpc.StatusCode.OK

    with Server(repository) as server:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            for future in [pool.submit(one, server, sequence) for sequence in range(1, 121)]:
                future.result()
        texts = {str(error.details()) for error in failed if isinstance(error, grpc.RpcError)}
        assert texts <= {"Request timeout expired", "timeout of the corresponding sequence has been expired",
                         "Locally cancelled by application!"}
        assert answered and failed
        # Every place is free again, and what was answered was counted once.
        assert run(server.stub(), "busy", [1, 2, 3], 1000) == [1, 3, 6]
        counted = count(server, "busy")
        assert counted.inference_stats.success.count >= len(answered) + 3
        wait_pending(server, "busy", 0)


def test_a_reload_in_the_middle_of_a_sequence(repository):
    write_sum(repository, "reloaded", state(), parameters={"execute_delay_ms": "1000"})
    with Server(repository) as server:
        stub, client = server.stub(), server.client()
        assert output(stub.ModelInfer(step("reloaded", 1, 1, True), timeout=LIMIT_S)) == [1]
        under_way = [hold(server, step("reloaded", 1, 1, id="0"), stub)]
        under_way += send(stub, *[step("reloaded", 1, 1, id=str(number)) for number in range(1, 3)])
        wait_until(lambda: pending(server, "reloaded") == 2 or under_way[0].done(), "two wait behind one that runs")
        write_sum(repository, "reloaded", state(), parameters={"execute_delay_ms": "0"})
        client.load_model("reloaded")
        assert sorted(output(call.result())[0] for call in under_way) == [2, 3, 4]
        says(INVALID, "must specify the START flag", lambda: stub.ModelInfer(step("reloaded", 1, 1)))
        assert run(stub, "reloaded", [4, 5], 1) == [4, 9]


def test_config_is_normalized(sequences):
    shown = sequences.client().get_model_config("defaults", as_json=True)["config"]["sequence_batching"]
    assert shown["max_sequence_idle_microseconds"] == "1000000"
    assert shown["oldest"] == {"max_candidate_sequences": 4, "preferred_batch_size": [4]}
    assert [each["name"] for each in shown["control_input"]] == ["START", "READY", "END", "CORRID"]
    assert shown["state"][0]["input_name"] == "SUM_IN"


@pytest.mark.parametrize("sequence, text", [
    ("iterative_sequence: true", "'sequence_batching.iterative_sequence' is not supported by this server (model 'bad')"),
    ("oldest { max_candidate_sequences: 2 preferred_batch_size: [ 5 ] }",
     "sequence batching preferred batch size must be <= max batch size for bad"),
    (controls(kinds=("START", "START")), "sequence batching specifies multiple CONTROL_SEQUENCE_START tensors for bad"),
    (controls(encoding=""), "sequence batching must specify either 'int32_false_true', 'fp32_false_true' or "
                            "'bool_false_true' for CONTROL_SEQUENCE_START for bad"),
    (controls(corrid="TYPE_FP32"), "unexpected data type for control CONTROL_SEQUENCE_CORRID for bad. Allowed data types are "
                                   "TYPE_UINT64, TYPE_INT64, TYPE_UINT32, TYPE_INT32 and TYPE_STRING"),
    (state(more='initial_state { name: "x" data_type: TYPE_INT32 dims: [ 1 ] data_file: "missing" }'),
     "unable to read 'initial_state/missing' of model 'bad'"),
    (state(more='initial_state { name: "x" data_type: TYPE_INT32 dims: [ 1 ] data_file: "../config.pbtxt" }'),
     "must lie in the model's folder 'initial_state'"),
])
def test_what_is_wrong_is_said_at_load(repository, sequence, text):
    write_sum(repository, "bad", sequence)
    with Server(repository, load=()) as server:
        with pytest.raises(InferenceServerException) as failure:
            server.client().load_model("bad")
        assert text in failure.value.message()
