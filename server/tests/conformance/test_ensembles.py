"""Ensembles: graphs of models served as one, and the texts that refuse graphs that are none."""

import collections
import json
import queue
import re

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.models import (DECOUPLED, config, ensemble, write, write_add_sub, write_identity, write_repeat, write_sleep,
                            write_square)
from harness.server import Server, wait_until
from harness.state import hold, nap, send
from harness.wire import INVALID, UNIMPLEMENTED, outputs_of, parameters_of, refused, request

LIMIT_S = 60

FOUR = ("INT32", [4])
A_AND_B = [("A", *FOUR), ("B", *FOUR)]


def write_graphs(repository):
    """Write composing models and ensembles over them."""
    for name in ("first", "second", "third"):
        write_add_sub(repository, name, *FOUR, 8)
    write_add_sub(repository, "flat", *FOUR)
    write(repository, "chain", ensemble(
        "chain", A_AND_B, [("C", *FOUR)],
        [("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "sum", "OUTPUT1": "difference"}),
         ("second", {"INPUT0": "sum", "INPUT1": "difference"}, {"OUTPUT0": "C"})], 8))
    # The steps are written in reverse: the graph orders them, the file does not.
    write(repository, "reversed", ensemble(
        "reversed", A_AND_B, [("C", *FOUR)],
        [("second", {"INPUT0": "sum", "INPUT1": "difference"}, {"OUTPUT0": "C"}),
         ("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "sum", "OUTPUT1": "difference"})], 8))
    write(repository, "branches", ensemble(
        "branches", A_AND_B, [("SUM", *FOUR), ("BOTH", *FOUR), ("ONE", *FOUR)],
        [("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "SUM"}),
         ("second", {"INPUT0": "A", "INPUT1": "A"}, {"OUTPUT0": "twice", "OUTPUT1": "ONE"}),
         ("third", {"INPUT0": "SUM", "INPUT1": "twice"}, {"OUTPUT0": "BOTH"})], 8))
    write(repository, "nested", ensemble(
        "nested", A_AND_B, [("D", *FOUR)],
        [("chain", {"A": "A", "B": "B"}, {"C": "c"}),
         ("third", {"INPUT0": "c", "INPUT1": "B"}, {"OUTPUT0": "D"})], 8))
    # A batching ensemble over a model without a batch dimension, and the other way round.
    write(repository, "batching_over_flat", ensemble(
        "batching_over_flat", A_AND_B, [("C", *FOUR)],
        [("flat_row", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "C"})], 8))
    write_add_sub(repository, "flat_row", "INT32", [1, 4])
    write(repository, "flat_over_batching", ensemble(
        "flat_over_batching", A_AND_B, [("C", *FOUR)],
        [("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "C"})], 0))
    write(repository, "version_0", ensemble(
        "version_0", A_AND_B, [("C", *FOUR)], [("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "C"}, 0)], 8))
    write(repository, "version_1", ensemble(
        "version_1", A_AND_B, [("C", *FOUR)], [("first", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "C"}, 1)], 8))
    write_failing(repository)
    write_streams(repository)
    write_timed(repository)


def write_failing(repository):
    """Write ensembles whose steps refuse or leave out things."""
    repeat_inputs = [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])]
    same = {name: name for name, _, _ in repeat_inputs}
    write_repeat(repository, "repeat_unary", decoupled=False)
    write(repository, "failing", ensemble(
        "failing", repeat_inputs, [("OUT", "INT32", [1])], [("repeat_unary", same, {"OUT": "OUT"})]))
    write(repository, "failing_nested", ensemble(
        "failing_nested", repeat_inputs, [("OUT", "INT32", [1])], [("failing", same, {"OUT": "OUT"})]))
    write_add_sub(repository, "omits", *FOUR, parameters={"omit_output": "OUTPUT1"})
    write(repository, "omitting", ensemble(
        "omitting", A_AND_B, [("C", *FOUR), ("D", *FOUR)],
        [("omits", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "C", "OUTPUT1": "D"})]))
    write(repository, "stuck", ensemble(
        "stuck", A_AND_B, [("D", *FOUR)],
        [("omits", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT1": "nothing"}),
         ("flat", {"INPUT0": "nothing", "INPUT1": "B"}, {"OUTPUT0": "D"})]))
    write_identity(repository, "narrow", "INT32", [2])
    write_identity(repository, "any", "INT32", [-1])
    write(repository, "mismatch_at_run_time", ensemble(
        "mismatch_at_run_time", [("X", "INT32", [-1])], [("Y", "INT32", [2])],
        [("any", {"INPUT0": "X"}, {"OUTPUT0": "x"}), ("narrow", {"INPUT0": "x"}, {"OUTPUT0": "Y"})]))
    write(repository, "params", config(
        "params", "parameter_echo", [("INPUT0", "INT32", [-1])], [("key", "BYTES", [-1]), ("value", "BYTES", [-1])]))
    write(repository, "passes_parameters", ensemble(
        "passes_parameters", [("X", "INT32", [-1])], [("KEY", "BYTES", [-1]), ("VALUE", "BYTES", [-1])],
        [("any", {"INPUT0": "X"}, {"OUTPUT0": "x"}),
         ("params", {"INPUT0": "x"}, {"key": "KEY", "value": "VALUE"})]))


def write_streams(repository):
    """Write ensembles with a decoupled step."""
    write_repeat(repository, "repeat")
    write_identity(repository, "one", "INT32", [1])
    write(repository, "streaming", ensemble(
        "streaming", [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])],
        [("RESULT", "INT32", [1]), ("INDEX", "UINT32", [1])],
        [("repeat", {"IN": "IN", "DELAY": "DELAY", "WAIT": "WAIT"}, {"OUT": "out", "IDX": "INDEX"}),
         ("one", {"INPUT0": "out"}, {"OUTPUT0": "RESULT"})]))


def write_timed(repository):
    """Write an ensemble of two branches that each take a while."""
    write_sleep(repository, "sleep_left")
    write_sleep(repository, "sleep_right")
    write(repository, "side_by_side", ensemble(
        "side_by_side", [("S", "FP32", [1])], [("L", "FP32", [1]), ("R", "FP32", [1])],
        [("sleep_left", {"INPUT0": "S"}, {"OUTPUT0": "L"}), ("sleep_right", {"INPUT0": "S"}, {"OUTPUT0": "R"})]))


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """A server with ensembles."""
    repository = tmp_path_factory.mktemp("graphs")
    write_graphs(repository)
    with Server(repository) as server:
        yield server


@pytest.fixture(scope="module")
def calls(graphs):
    """The stub of that server."""
    return graphs.stub()


def ask(stub, name, a, b, outputs=(), shape=None, **more):
    """Send A and B and return the outputs as {name: list}."""
    shape = shape or [len(a) // 4, 4]
    message = request(name, [("A", "INT32", shape, a), ("B", "INT32", shape, b)], outputs, **more)
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    return {key: list(values) for key, (_, _, values) in outputs_of(reply).items()}


def executions(stub, *names):
    """Return the execution counts of models."""
    return [stub.ModelStatistics(pb.ModelStatisticsRequest(name=name), timeout=LIMIT_S).model_stats[0].execution_count
            for name in names]


@pytest.mark.parametrize("name", ["chain", "reversed"])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_chain(calls, name, rows):
    a, b = list(range(4 * rows)), [7] * (4 * rows)
    # (a + b) + (a - b)
    assert ask(calls, name, a, b) == {"C": [2 * value for value in a]}


def test_reply_of_an_ensemble_bears_its_own_name(calls):
    message = request("chain", [("A", "INT32", [1, 4], [1] * 4), ("B", "INT32", [1, 4], [1] * 4)], id="mine")
    reply = calls.ModelInfer(message, timeout=LIMIT_S)
    assert (reply.model_name, reply.model_version, reply.id) == ("chain", "1", "mine")


def test_batch_beyond_the_maximum(calls):
    with refused(INVALID, r"inference request batch-size must be <= 8 for 'chain'"):
        ask(calls, "chain", [1] * 36, [1] * 36)


def test_branches(calls):
    a, b = [1, 2, 3, 4], [10, 20, 30, 40]
    assert ask(calls, "branches", a, b) == {
        "SUM": [11, 22, 33, 44], "ONE": [0] * 4, "BOTH": [13, 26, 39, 52]}


PRUNED = {("SUM",): (1, 0, 0), ("ONE",): (0, 1, 0), ("BOTH",): (1, 1, 1), ("SUM", "ONE"): (1, 1, 0)}


@pytest.mark.parametrize("outputs", PRUNED, ids=["+".join(each) for each in PRUNED])
def test_steps_that_no_requested_output_needs_are_not_executed(calls, outputs):
    before = executions(calls, "first", "second", "third")
    assert set(ask(calls, "branches", [1] * 4, [2] * 4, outputs)) == set(outputs)
    after = executions(calls, "first", "second", "third")
    assert tuple(new - old for new, old in zip(after, before)) == PRUNED[outputs]


@pytest.mark.parametrize("held, other", [("sleep_left", "sleep_right"), ("sleep_right", "sleep_left")])
def test_branches_run_side_by_side(graphs, calls, held, other):
    (before,) = executions(calls, other)
    holding = hold(graphs, nap(held))
    (both,) = send(calls, nap("side_by_side", 0.0, name="S"))
    # One branch runs to its end while the other has not begun.
    wait_until(lambda: executions(calls, other) == [before + 1], f"the branch of {other} is executed")
    assert not holding.done() and not both.done()
    holding.cancel()
    assert set(outputs_of(both.result())) == {"L", "R"}


def test_nested(calls):
    assert ask(calls, "nested", [1, 2, 3, 4], [5] * 4) == {"D": [7, 9, 11, 13]}


def test_batching_ensemble_over_a_model_without_batching(calls):
    assert ask(calls, "batching_over_flat", [1, 2, 3, 4], [1] * 4) == {"C": [2, 3, 4, 5]}


def test_ensemble_without_batching_over_a_batching_model(calls):
    assert ask(calls, "flat_over_batching", [1, 2, 3, 4], [1] * 4, shape=[4]) == {"C": [2, 3, 4, 5]}


@pytest.mark.parametrize("name", ["version_0", "version_1"])
def test_version_of_a_step(calls, name):
    assert ask(calls, name, [1] * 4, [2] * 4) == {"C": [3] * 4}


def test_error_of_a_step_names_the_ensemble(calls):
    inputs = [("IN", "INT32", [1], [1]), ("DELAY", "UINT32", [2], [0, 0]), ("WAIT", "UINT32", [1], [0])]
    with refused(INVALID, r"^in ensemble 'failing', .*expected IN and DELAY shape to match, got \[1\] and \[2\]"):
        calls.ModelInfer(request("failing", inputs), timeout=LIMIT_S)
    with refused(INVALID, r"^in ensemble 'failing_nested', in ensemble 'failing', .*expected IN and DELAY shape"):
        calls.ModelInfer(request("failing_nested", inputs), timeout=LIMIT_S)


def test_error_of_a_request_to_the_ensemble_itself(calls):
    with refused(INVALID, r"^\[request id: <id_unknown>\] expected 2 inputs but got 0 inputs for model 'chain'"):
        calls.ModelInfer(request("chain"), timeout=LIMIT_S)
    with refused(INVALID, r"^unexpected inference output 'X' for model 'chain'$"):
        ask(calls, "chain", [1] * 4, [1] * 4, ["X"])


def test_shape_that_fits_the_ensemble_and_not_its_step(calls):
    good = calls.ModelInfer(request("mismatch_at_run_time", [("X", "INT32", [2], [1, 2])]), timeout=LIMIT_S)
    assert list(outputs_of(good)["Y"][2]) == [1, 2]
    with refused(INVALID, r"^in ensemble 'mismatch_at_run_time', .*unexpected shape for input 'INPUT0' for model "
                          r"'narrow'\. Expected \[2\], got \[3\]"):
        calls.ModelInfer(request("mismatch_at_run_time", [("X", "INT32", [3], [1, 2, 3])]), timeout=LIMIT_S)


def test_output_that_a_step_left_out_is_absent(calls):
    assert ask(calls, "omitting", [1] * 4, [2] * 4, shape=[4]) == {"C": [3] * 4}


def test_graph_that_cannot_go_on(calls):
    with refused(INVALID, r"^in ensemble 'stuck', .*unexpected deadlock, at least one output is not set while no more "
                          r"ensemble steps can be made"):
        ask(calls, "stuck", [1] * 4, [2] * 4, shape=[4])


def test_parameters_reach_the_steps(calls):
    message = request("passes_parameters", [("X", "INT32", [1], [1])], parameters={"mine": "yes"})
    outputs = outputs_of(calls.ModelInfer(message, timeout=LIMIT_S))
    assert (outputs["KEY"][2], outputs["VALUE"][2]) == ([b"mine"], [b"yes"])


def streaming(values, **more):
    """Return a request to the ensemble with a decoupled step."""
    return request("streaming", [("IN", "INT32", [len(values)], values), ("DELAY", "UINT32", [len(values)],
                                 [1] * len(values)), ("WAIT", "UINT32", [1], [0])], **more)


def test_a_decoupled_step_makes_the_ensemble_decoupled(calls):
    with refused(UNIMPLEMENTED, r"ModelInfer RPC doesn't support models with decoupled transaction policy"):
        calls.ModelInfer(streaming([1]), timeout=LIMIT_S)


def test_decoupled_step(calls):
    message = streaming([5, 6, 7], id="s", parameters={"triton_enable_empty_final_response": True})
    replies = list(calls.ModelStreamInfer(iter([message]), timeout=LIMIT_S))
    assert not any(reply.error_message for reply in replies), replies
    got = [{name: int(values[0]) for name, (_, _, values) in outputs_of(reply.infer_response).items()}
           for reply in replies if reply.infer_response.outputs]
    # Outputs of different responses never mix.
    assert sorted((each["INDEX"], each["RESULT"]) for each in got) == [(0, 5), (1, 6), (2, 7)]
    finals = [parameters_of(reply.infer_response)["triton_final_response"] for reply in replies]
    assert finals == [False] * (len(replies) - 1) + [True]


def test_a_client_that_does_not_read_holds_up_nobody_else(repository):
    one = ("INT32", [1])
    write_square(repository, "many")
    write_identity(repository, "shared", *one)
    graph = ensemble("ensemble", [("IN", *one)], [("OUT", *one)],
                     [("many", {"IN": "IN"}, {"OUT": "each"}), ("shared", {"INPUT0": "each"}, {"OUTPUT0": "OUT"})])
    # Without this limit the first step would fill the queue of the second.
    bounded = graph.replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 16")
    write(repository, "ensemble", bounded)
    with Server(repository) as server:
        stub, unread = server.stub(), queue.Queue()
        unread.put(request("ensemble", [("IN", "INT32", [1], [1_000_000])]))
        stalled = server.stub().ModelStreamInfer(iter(unread.get, None))
        next(stalled)
        counts = collections.deque(maxlen=50)

        def is_held_back():
            reply = stub.ModelStatistics(pb.ModelStatisticsRequest(name="shared"), timeout=LIMIT_S)
            counts.append(reply.model_stats[0].inference_count)
            return len(counts) == counts.maxlen and len(set(counts)) == 1

        wait_until(is_held_back, "the ensemble is held back by its client")
        assert counts[-1] < 1_000_000
        reply = stub.ModelInfer(request("shared", [("INPUT0", "INT32", [1], [7])]), timeout=LIMIT_S)
        assert list(outputs_of(reply)["OUTPUT0"][2]) == [7]
        # The client reads again: nothing is lost, and all keeps its order.
        for _ in range(20_000):
            assert list(outputs_of(next(stalled).infer_response)["OUT"][2]) == [1_000_000]
        stalled.cancel()
        unread.put(None)
        quick = stub.ModelStreamInfer(iter([request("ensemble", [("IN", "INT32", [1], [3])])]), timeout=LIMIT_S)
        assert [list(outputs_of(reply.infer_response)["OUT"][2]) for reply in quick] == [[3]] * 3


def test_decoupled_step_without_responses(calls):
    message = streaming([], parameters={"triton_enable_empty_final_response": True})
    (reply,) = calls.ModelStreamInfer(iter([message]), timeout=LIMIT_S)
    assert not reply.error_message and not reply.infer_response.outputs


def graph(outputs=(("C", *FOUR),), steps=(), inputs=tuple(A_AND_B), size=0, extra=""):
    """Return the text of an ensemble `e`."""
    return ensemble("e", inputs, outputs, steps, size, extra)


def step(model="model", inputs=None, outputs=None):
    """Return one step, right unless told otherwise."""
    return (model, {"INPUT0": "A", "INPUT1": "B"} if inputs is None else inputs,
            {"OUTPUT0": "C"} if outputs is None else outputs)


REFUSED = {
    "no step": (graph(), r"must specify 'step' for ensemble 'e'"),
    "no model name": (graph(steps=[step("")]), r"must specify 'model_name' in step 0 of ensemble 'e'"),
    "no input map": (graph(steps=[step(inputs={})]), r"must specify 'input_map' in step 0 of ensemble 'e'"),
    "no output map": (graph(steps=[step(outputs={})]), r"must specify 'output_map' in step 0 of ensemble 'e'"),
    "tensor written twice in a step": (
        graph(steps=[step(outputs={"OUTPUT0": "C", "OUTPUT1": "C"})]),
        r"ensemble tensor 'C' can appear in an output map only once for ensemble 'e' step 0"),
    "tensor written by two steps": (
        graph(steps=[step(), step()]),
        r"ensemble tensor 'C' can appear in an output map only once for ensemble 'e' step 1"),
    "input not used": (
        graph(steps=[step(inputs={"INPUT0": "A", "INPUT1": "A"})]), r"ensemble input 'B' for ensemble '?e'? is not used"),
    "output not written": (
        graph(outputs=[("C", *FOUR), ("D", *FOUR)], steps=[step()]),
        r"output 'D' for ensemble 'e' is not written|ensemble output 'D' for ensemble '?e'? is not used"),
    "output behind a tensor that nobody writes": (
        graph(steps=[step(inputs={"INPUT0": "A", "INPUT1": "B"}, outputs={"OUTPUT0": "x"}),
                     step(inputs={"INPUT0": "x", "INPUT1": "nowhere"})]),
        r"output 'C' for ensemble 'e' is not written: at least one of its depending tensors, 'nowhere', is not "
        r"connected"),
    "steps in a circle": (
        graph(steps=[step(inputs={"INPUT0": "A", "INPUT1": "y"}, outputs={"OUTPUT0": "x"}),
                     step(inputs={"INPUT0": "x", "INPUT1": "B"}, outputs={"OUTPUT0": "y", "OUTPUT1": "C"})]),
        r"output 'C' for ensemble 'e' is not written|circular"),
    "tensor unused": (
        graph(steps=[step(outputs={"OUTPUT0": "C", "OUTPUT1": "left"})]),
        r"ensemble tensor 'left' is unused in ensemble 'e'"),
    "instance group": (
        graph(steps=[step()], extra="instance_group [ { count: 1 } ]"),
        r"instance group should not be specified for ensemble 'e'"),
    "optimization": (
        graph(steps=[step()], extra="optimization { priority: PRIORITY_MAX }"),
        r"optimization should not be specified for ensemble 'e'"),
    "warmup": (
        graph(steps=[step()], extra='model_warmup [ { name: "w" batch_size: 1 } ]'),
        r"model_warmup can not be specified for ensemble 'e'"),
    "scheduling without the platform": (
        graph(steps=[step()]).replace('platform: "ensemble"', 'backend: "builtin"'),
        r"ensemble scheduling cannot be set for model 'e' whose platform is not ensemble"),
    "input that the model does not have": (
        graph(steps=[step(inputs={"INPUT0": "A", "INPUT1": "B", "INPUT9": "A"})]),
        r"in ensemble e, ensemble tensor A is mapping to non-existing input INPUT9 in model model"),
    "output that the model does not have": (
        graph(steps=[step(outputs={"OUTPUT9": "C"})]),
        r"in ensemble e, ensemble tensor C is mapped from non-existing output OUTPUT9 in model model"),
    "input that is not mapped": (
        graph(inputs=[("A", *FOUR)], steps=[step(inputs={"INPUT0": "A"})]),
        r"in ensemble e, input INPUT1 in model model is not mapped to any ensemble tensors"),
    "datatypes differ": (
        graph(outputs=[("C", "FP32", [4])], steps=[step()]),
        r"in ensemble e, ensemble tensor C: inconsistent data type: TYPE_\w+ is inferred from model \w+ while TYPE_\w+ "
        r"is inferred from model \w+"),
    "shapes differ": (
        graph(outputs=[("C", "INT32", [5])], steps=[step()]),
        r"in ensemble e, ensemble tensor C: inconsistent shape: \[\d\] is inferred from model \w+ while \[\d\] is "
        r"inferred from model \w+"),
    "batch too large for a step": (
        graph(steps=[step("batching")], size=16),
        r"ensemble e allows maximum batch size 16, but it contains model batching which only allows maximum batch "
        r"size to be 8"),
    "composing model that does not exist": (
        graph(steps=[step("nobody")]), r"ensemble 'e' depends on 'nobody' which has no loaded version"),
    "composing version that does not exist": (
        graph(steps=[(*step(), 7)]), r"ensemble 'e' depends on 'model' whose required version 7 is not loaded"),
    "composing model that fails": (
        graph(steps=[step("broken")]),
        r"ensemble 'e' depends on 'broken' which has no loaded version\. Model 'broken' loading failed with error: "),
    "itself as a step": (
        graph(steps=[("e", {"A": "A", "B": "B"}, {"C": "C"})]), r"circular dependency between ensembles"),
    "two decoupled sources": (
        ensemble("e", [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])],
                 [("C", "INT32", [1])],
                 [("repeat", {"IN": "IN", "DELAY": "DELAY", "WAIT": "WAIT"}, {"OUT": "x"}),
                  ("repeat", {"IN": "IN", "DELAY": "DELAY", "WAIT": "WAIT"}, {"OUT": "y"}),
                  ("single", {"INPUT0": "x", "INPUT1": "y"}, {"OUTPUT0": "C"})]),
        r"in ensemble e, step of model 'single' receives inputs originated from different decoupled models"),
}


@pytest.fixture(scope="module")
def refusing(tmp_path_factory):
    """A server with composing models at hand, to load wrong ensembles into."""
    repository = tmp_path_factory.mktemp("refusing")
    write_add_sub(repository, "model", *FOUR)
    write_add_sub(repository, "single", "INT32", [1])
    write_add_sub(repository, "batching", *FOUR, 8)
    write_repeat(repository, "repeat")
    write(repository, "broken", config(
        "broken", "no_such_kind", [("INPUT0", *FOUR), ("INPUT1", *FOUR)], [("OUTPUT0", *FOUR)]))
    with Server(repository, load=()) as server:
        yield server


@pytest.mark.parametrize("case", REFUSED)
def test_graphs_that_are_refused(refusing, case):
    text, pattern = REFUSED[case]
    write(refusing.repository, "e", text)
    stub = refusing.stub()
    with pytest.raises(grpc.RpcError) as caught:
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="e"), timeout=LIMIT_S)
    # The text of a static fault may be found in the reply, or, as in Triton, in the index alone.
    reply = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=LIMIT_S)
    texts = [caught.value.details()] + [model.reason for model in reply.models if model.name == "e"]
    assert any(re.search(pattern, text) for text in texts), texts
    assert not stub.ModelReady(pb.ModelReadyRequest(name="e"), timeout=LIMIT_S).ready


def test_two_ensembles_in_a_circle(repository):
    for name, other in (("x", "y"), ("y", "x")):
        write(repository, name, ensemble(
            name, A_AND_B, [("C", *FOUR)], [(other, {"A": "A", "B": "B"}, {"C": "C"})]))
    with Server(repository, load=()) as server:
        with pytest.raises(grpc.RpcError, match="circular dependency between ensembles"):
            server.stub().RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="x"), timeout=LIMIT_S)
        assert server.stub().ServerLive(pb.ServerLiveRequest(), timeout=LIMIT_S).live


def test_ensembles_nest_only_so_deep(repository):
    tensors = [("A", "INT32", [4])], [("B", "INT32", [4])]
    write(repository, "level_0", config("level_0", "identity", *tensors))
    for level in range(1, 34):
        write(repository, f"level_{level}", ensemble(
            f"level_{level}", *tensors, [(f"level_{level - 1}", {"A": "A"}, {"B": "B"})]))
    with Server(repository, load=()) as server:
        client = server.client()
        client.load_model("level_32")
        reply = server.stub().ModelInfer(request("level_32", [("A", "INT32", [4], [1, 2, 3, 4])]), timeout=LIMIT_S)
        assert list(outputs_of(reply)["B"][2]) == [1, 2, 3, 4]
        with pytest.raises(triton.InferenceServerException, match="33 levels deep; expected at most 32"):
            client.load_model("level_33")
        # One level more below takes the highest ensemble out of service, and it comes back without.
        longer = {"platform": "ensemble", "input": [{"name": "A", "data_type": "TYPE_INT32", "dims": [4]}],
                  "output": [{"name": "B", "data_type": "TYPE_INT32", "dims": [4]}],
                  "ensemble_scheduling": {"step": [{"model_name": "other", "model_version": -1,
                                                    "input_map": {"A": "A"}, "output_map": {"B": "B"}}]}}
        write(repository, "other", config("other", "identity", *tensors))
        client.load_model("level_0", config=json.dumps(longer))
        assert client.is_model_ready("level_31") and not client.is_model_ready("level_32")
        client.unload_model("level_0")
        client.load_model("level_32")
        assert client.is_model_ready("level_32")


def test_optional_input_of_a_step_need_not_be_mapped(repository):
    write(repository, "optional", config(
        "optional", "identity", [("INPUT0", *FOUR), ("INPUT1", *FOUR, "optional: true")],
        [("OUTPUT0", *FOUR), ("OUTPUT1", *FOUR)]))
    write(repository, "e", graph(inputs=[("A", *FOUR)], steps=[step("optional", {"INPUT0": "A"})]))
    with Server(repository) as server:
        reply = server.stub().ModelInfer(request("e", [("A", "INT32", [4], [1, 2, 3, 4])]), timeout=LIMIT_S)
        assert list(outputs_of(reply)["C"][2]) == [1, 2, 3, 4]


def test_decoupled_setting_of_a_plain_model_is_reported(repository):
    write(repository, "d", config("d", "square", [("IN", "INT32", [1])], [("OUT", "INT32", [1])], extra=DECOUPLED))
    with Server(repository) as server:
        assert server.client().get_model_config("d").config.model_transaction_policy.decoupled
