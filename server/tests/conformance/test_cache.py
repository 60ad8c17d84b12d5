"""The response cache: what is answered from it, what is not, and how it is counted."""

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.metrics import scrape, value_of
from harness.models import config, ensemble, write, write_add_sub, write_identity
from harness.server import Server
from harness.wire import outputs_of, parameters_of, request

LIMIT_S = 60

CACHED = "response_cache { enable: true }"
SIZE = ("--cache-config", "local,size=1048576")


def write_models(repository):
    """Write cached models of each kind, and one that is not cached."""
    write_identity(repository, "direct", "FP32", [-1], extra=CACHED)
    write_identity(repository, "batching", "FP32", [-1], 8, extra=CACHED + " dynamic_batching { }")
    write_identity(repository, "texts", "BYTES", [-1], extra=CACHED)
    write_identity(repository, "uncached", "FP32", [-1])
    write_add_sub(repository, "two_outputs", "INT32", [4], extra=CACHED)
    write(repository, "echo", config(
        "echo", "parameter_echo", [("INPUT0", "FP32", [1])], [("key", "BYTES", [-1]), ("value", "BYTES", [-1])],
        extra=CACHED))
    write_add_sub(repository, "inner", "INT32", [4])
    write(repository, "graph", ensemble(
        "graph", [("A", "INT32", [4]), ("B", "INT32", [4])], [("S", "INT32", [4])],
        [("inner", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "S"})], extra=CACHED))
    write_identity(repository, "labeled", "FP32", [4], files={"labels.txt": "a\nb\nc\nd\n"}, extra=CACHED,
                   output_extra='label_filename: "labels.txt"')


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A server with a cache of 1 MiB."""
    repository = tmp_path_factory.mktemp("cached")
    write_models(repository)
    with Server(repository, *SIZE, "--grpc-header-forward-pattern", "^x-") as server:
        yield server


def statistics(server, model):
    """Return the statistics of a model's only version."""
    reply = server.stub().ModelStatistics(pb.ModelStatisticsRequest(name=model), timeout=LIMIT_S)
    return reply.model_stats[0]


class Counter:
    """What a block of calls added to a model's counts."""

    def __init__(self, server, model):
        self.server, self.model = server, model

    def counts(self):
        """Return the counts that matter here."""
        all_counts = statistics(self.server, self.model)
        stats = all_counts.inference_stats
        return np.array([stats.success.count, stats.cache_hit.count, stats.cache_miss.count,
                         all_counts.execution_count, all_counts.inference_count, stats.compute_infer.count,
                         stats.compute_input.count, stats.compute_output.count])

    def __enter__(self):
        self.before = self.counts()
        return self

    def __exit__(self, *_):
        after = self.counts() - self.before
        self.success, self.hits, self.misses, self.executions, self.inferences, self.computed = after[:6]
        assert after[5] == after[6] == after[7] == self.success - self.hits, "compute counts leave hits out"
        assert self.hits + self.misses == self.success


def identity(model, values, **more):
    """Return a request to an identity model."""
    values = np.asarray(values, np.float32)
    return request(model, [("INPUT0", "FP32", values.shape, values)], **more)


@pytest.mark.parametrize("model,shape", [("direct", (3,)), ("batching", (2, 3))])
def test_the_second_answer_comes_from_the_cache(cached, model, shape):
    stub = cached.stub()
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) + 100
    with Counter(cached, model) as counter:
        replies = [stub.ModelInfer(identity(model, values, id=id), timeout=LIMIT_S) for id in ("one", "two", "")]
    assert (counter.misses, counter.hits, counter.executions) == (1, 2, 1)
    assert counter.inferences == (1 if model == "direct" else shape[0])
    assert [reply.id for reply in replies] == ["one", "two", ""]
    for reply in replies:
        assert (reply.model_name, reply.model_version) == (model, "1")
        assert np.array_equal(outputs_of(reply)["OUTPUT0"][2].reshape(shape), values)
        # The parameters that the model set are part of the answer.
        assert parameters_of(reply)["param1"] == 42


def test_hits_say_how_long_they_took(cached):
    stub = cached.stub()
    for _ in range(3):
        stub.ModelInfer(identity("direct", [77]), timeout=LIMIT_S)
    stats = statistics(cached, "direct").inference_stats
    assert stats.cache_hit.ns > 0 and stats.cache_miss.ns > 0
    assert stats.queue.count == stats.success.count


DIFFERENT = {
    "contents": (identity("direct", [1, 2]), identity("direct", [2, 1])),
    "shape": (identity("direct", [0, 0]), identity("direct", [0, 0, 0])),
    "rows": (identity("batching", [[5, 6]]), identity("batching", [[5], [6]])),
    "where one text ends": (
        request("texts", [("INPUT0", "BYTES", [2], [b"ab", b"c"])]), request("texts", [("INPUT0", "BYTES", [2], [b"a", b"bc"])])),
    "outputs": (
        request("two_outputs", [("INPUT0", "INT32", [4], [1] * 4), ("INPUT1", "INT32", [4], [2] * 4)], ["OUTPUT0"]),
        request("two_outputs", [("INPUT0", "INT32", [4], [1] * 4), ("INPUT1", "INT32", [4], [2] * 4)], ["OUTPUT1"])),
    "which input is which": (
        request("two_outputs", [("INPUT0", "INT32", [4], [3] * 4), ("INPUT1", "INT32", [4], [4] * 4)]),
        request("two_outputs", [("INPUT0", "INT32", [4], [4] * 4), ("INPUT1", "INT32", [4], [3] * 4)])),
    "a parameter": (
        request("echo", [("INPUT0", "FP32", [1], [1])], parameters={"key": 1}),
        request("echo", [("INPUT0", "FP32", [1], [1])], parameters={"key": 2})),
    "a parameter's type": (
        request("echo", [("INPUT0", "FP32", [1], [2])], parameters={"key": 1}),
        request("echo", [("INPUT0", "FP32", [1], [2])], parameters={"key": "1"})),
    "a parameter's name": (
        request("echo", [("INPUT0", "FP32", [1], [3])], parameters={"ab": "c"}),
        request("echo", [("INPUT0", "FP32", [1], [3])], parameters={"a": "bc"})),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_requests_that_differ_are_told_apart(cached, what):
    first, second = DIFFERENT[what]
    stub = cached.stub()
    with Counter(cached, first.model_name) as counter:
        answers = [stub.ModelInfer(message, timeout=LIMIT_S) for message in (first, second, first, second)]
    assert (counter.misses, counter.hits) == (2, 2)
    assert answers[0].SerializeToString(deterministic=True) == answers[2].SerializeToString(deterministic=True)
    assert answers[1].SerializeToString(deterministic=True) == answers[3].SerializeToString(deterministic=True)
    # The model prints 1 and "1" alike.
    assert answers[0] != answers[1] or what == "a parameter's type"


SAME = {
    "typed contents": lambda number: request("direct", [("INPUT0", "FP32", [2], [number, 9])], raw=False),
    "priority": lambda number: identity("direct", [number, 9], parameters={"priority": 1}),
    "timeout": lambda number: identity("direct", [number, 9], parameters={"timeout": 50_000_000}),
    "all outputs by name": lambda number: identity("direct", [number, 9], outputs=["OUTPUT0"]),
    "the version by number": lambda number: identity("direct", [number, 9], version="1"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_changes_no_answer_finds_it(cached, what):
    stub, number = cached.stub(), 1000 + list(SAME).index(what)
    stub.ModelInfer(identity("direct", [number, 9]), timeout=LIMIT_S)
    with Counter(cached, "direct") as counter:
        stub.ModelInfer(SAME[what](number), timeout=LIMIT_S)
    assert (counter.misses, counter.hits) == (0, 1)


def test_the_order_of_inputs_changes_nothing(cached):
    stub = cached.stub()
    a, b = ("INPUT0", "INT32", [4], [11] * 4), ("INPUT1", "INT32", [4], [12] * 4)
    first = stub.ModelInfer(request("two_outputs", [a, b]), timeout=LIMIT_S)
    with Counter(cached, "two_outputs") as counter:
        second = stub.ModelInfer(request("two_outputs", [b, a]), timeout=LIMIT_S)
    assert counter.hits == 1 and first == second


def test_forwarded_headers_are_part_of_the_request(cached):
    stub = cached.stub()
    message = request("echo", [("INPUT0", "FP32", [1], [4])])
    with Counter(cached, "echo") as counter:
        replies = [stub.ModelInfer(message, metadata=[("x-user", user)], timeout=LIMIT_S) for user in ("a", "b", "a")]
    assert (counter.misses, counter.hits) == (2, 1)
    assert [outputs_of(reply)["value"][2] for reply in replies] == [[b"a"], [b"b"], [b"a"]]


def test_classes_are_made_from_what_is_kept(cached):
    stub = cached.stub()
    plain = identity("labeled", [0.1, 0.4, 0.2, 0.3])
    stub.ModelInfer(plain, timeout=LIMIT_S)
    with Counter(cached, "labeled") as counter:
        classes = identity("labeled", [0.1, 0.4, 0.2, 0.3], outputs=[("OUTPUT0", {"classification": 2})])
        reply = stub.ModelInfer(classes, timeout=LIMIT_S)
        again = stub.ModelInfer(plain, timeout=LIMIT_S)
    assert counter.hits == 2
    assert [each.split(b":")[1:] for each in outputs_of(reply)["OUTPUT0"][2]] == [[b"1", b"b"], [b"3", b"d"]]
    assert outputs_of(again)["OUTPUT0"][0] == "FP32"


def test_requests_of_a_sequence_pass_by(cached):
    stub = cached.stub()
    message = identity("direct", [31, 32], parameters={"sequence_id": 5, "sequence_start": True})
    before = statistics(cached, "direct")
    for _ in range(2):
        stub.ModelInfer(message, timeout=LIMIT_S)
    after = statistics(cached, "direct")
    assert after.execution_count - before.execution_count == 2
    assert after.inference_stats.cache_hit.count == before.inference_stats.cache_hit.count


def test_streams_are_answered_from_it_in_order(cached):
    stub = cached.stub()
    messages = [identity("direct", [500 + number % 2], id=str(number)) for number in range(20)]
    with Counter(cached, "direct") as counter:
        replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [reply.infer_response.id for reply in replies] == [str(number) for number in range(20)]
    for number, reply in enumerate(replies):
        assert reply.error_message == "" and outputs_of(reply.infer_response)["OUTPUT0"][2][0] == 500 + number % 2
    # Requests that come before the first answer miss as well.
    assert counter.success == 20 and counter.misses >= 2


def test_an_ensemble_that_hits_skips_its_steps(cached):
    stub = cached.stub()
    message = request("graph", [("A", "INT32", [4], [1, 2, 3, 4]), ("B", "INT32", [4], [5, 5, 5, 5])])
    before = statistics(cached, "inner").inference_stats.success.count
    with Counter(cached, "graph") as counter:
        replies = [stub.ModelInfer(message, timeout=LIMIT_S) for _ in range(3)]
    assert (counter.misses, counter.hits) == (1, 2)
    assert statistics(cached, "inner").inference_stats.success.count == before + 1
    assert all(list(outputs_of(reply)["S"][2]) == [6, 7, 8, 9] for reply in replies)


def test_metrics_of_cached_models_only(cached):
    cached.stub().ModelInfer(identity("uncached", [1]), timeout=LIMIT_S)
    stats = statistics(cached, "direct").inference_stats
    samples = scrape(cached)
    labels = {"model": "direct", "version": 1}
    assert value_of(samples, "nv_cache_num_hits_per_model", **labels) == stats.cache_hit.count > 0
    assert value_of(samples, "nv_cache_num_misses_per_model", **labels) == stats.cache_miss.count > 0
    assert value_of(samples, "nv_cache_hit_duration_per_model", **labels) == stats.cache_hit.ns // 1000
    assert value_of(samples, "nv_cache_miss_duration_per_model", **labels) == stats.cache_miss.ns // 1000
    assert value_of(samples, "nv_inference_request_success", **labels) == stats.success.count
    assert value_of(samples, "nv_cache_num_hits_per_model", model="uncached", version=1) is None
    assert value_of(samples, "nv_cache_num_hits_per_model", model="two_outputs", version=1) is not None


def test_the_configuration_shows_it(cached):
    reply = cached.client().get_model_config("direct", as_json=True)
    assert reply["config"]["response_cache"]["enable"] is True


def test_a_version_loaded_anew_does_not_see_old_answers(repository):
    write_add_sub(repository, "m", "INT32", [4], extra=CACHED)
    message = request("m", [("INPUT0", "INT32", [4], [5] * 4), ("INPUT1", "INT32", [4], [3] * 4)])
    with Server(repository, *SIZE) as server:
        stub, client = server.stub(), server.client()
        for _ in range(2):
            assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"][2]) == [8] * 4
        write_add_sub(repository, "m", "INT32", [4], kind="sub_add", extra=CACHED)
        client.load_model("m")
        with Counter(server, "m") as counter:
            for _ in range(2):
                assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"][2]) == [2] * 4
        assert (counter.misses, counter.hits) == (1, 1)


def test_an_ensemble_forgets_when_its_model_changes(repository):
    write_add_sub(repository, "inner", "INT32", [4])
    steps = [("inner", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "S"})]
    write(repository, "outer", ensemble(
        "outer", [("A", "INT32", [4]), ("B", "INT32", [4])], [("S", "INT32", [4])], steps, extra=CACHED))
    steps = [("outer", {"A": "A", "B": "B"}, {"S": "S"})]
    write(repository, "outermost", ensemble(
        "outermost", [("A", "INT32", [4]), ("B", "INT32", [4])], [("S", "INT32", [4])], steps, extra=CACHED))
    with Server(repository, *SIZE) as server:
        stub, client = server.stub(), server.client()
        messages = [request(model, [("A", "INT32", [4], [5] * 4), ("B", "INT32", [4], [3] * 4)])
                    for model in ("outer", "outermost")]
        for message in messages * 2:
            assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["S"][2]) == [8] * 4
        write_add_sub(repository, "inner", "INT32", [4], kind="sub_add")
        client.load_model("inner")
        for message in messages * 2:
            assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["S"][2]) == [2] * 4


def test_little_room_holds_little_and_too_large_an_answer_none(repository):
    write_identity(repository, "m", "FP32", [-1], extra=CACHED)
    with Server(repository, "--cache-config", "local,size=10000") as server:
        stub = server.stub()
        with Counter(server, "m") as counter:
            for _ in range(3):
                stub.ModelInfer(identity("m", np.zeros(5000)), timeout=LIMIT_S)
        assert (counter.misses, counter.hits) == (3, 0)
        with Counter(server, "m") as counter:
            for number in list(range(40)) * 2:
                stub.ModelInfer(identity("m", np.full(250, number)), timeout=LIMIT_S)
        assert counter.hits < 40, "40 answers of 1000 bytes do not fit"
        with Counter(server, "m") as counter:
            for _ in range(3):
                stub.ModelInfer(identity("m", np.full(250, 1000)), timeout=LIMIT_S)
        assert counter.hits == 2


def test_failures_are_not_kept(repository):
    write(repository, "fails", config(
        "fails", "add_sub", [("INPUT0", "BYTES", [1]), ("INPUT1", "BYTES", [1])],
        [("OUTPUT0", "BYTES", [1]), ("OUTPUT1", "BYTES", [1])], extra=CACHED))
    with Server(repository, *SIZE) as server:
        stub = server.stub()
        message = request("fails", [("INPUT0", "BYTES", [1], [b"no number"]), ("INPUT1", "BYTES", [1], [b"1"])])
        for _ in range(2):
            with pytest.raises(grpc.RpcError):
                stub.ModelInfer(message, timeout=LIMIT_S)
        stats = statistics(server, "fails").inference_stats
        assert (stats.fail.count, stats.success.count, stats.cache_hit.count, stats.cache_miss.count) == (2, 0, 0, 0)


def test_without_a_cache_the_model_is_served_without(repository):
    write_identity(repository, "m", "FP32", [-1], extra=CACHED)
    with Server(repository) as server:
        stub = server.stub()
        for _ in range(2):
            stub.ModelInfer(identity("m", [1]), timeout=LIMIT_S)
        stats = statistics(server, "m")
        assert stats.execution_count == 2 and stats.inference_stats.cache_miss.count == 0
        assert value_of(scrape(server), "nv_cache_num_hits_per_model", model="m", version=1) is None
        assert "the server has no cache" in server.log()


def test_the_older_flag_and_a_useless_one(repository):
    write_identity(repository, "m", "FP32", [-1], extra=CACHED)
    with Server(repository, "--response-cache-byte-size=1000000", "--cache-directory", "/nowhere") as server:
        stub = server.stub()
        for _ in range(2):
            stub.ModelInfer(identity("m", [1]), timeout=LIMIT_S)
        assert statistics(server, "m").inference_stats.cache_hit.count == 1
        assert "--cache-directory does nothing" in server.log()


def test_a_decoupled_ensemble_is_refused(repository):
    write(repository, "square", config(
        "square", "square", [("IN", "INT32", [1])], [("OUT", "INT32", [1])],
        extra="model_transaction_policy { decoupled: true }"))
    write(repository, "e", ensemble(
        "e", [("A", "INT32", [1])], [("S", "INT32", [1])], [("square", {"IN": "A"}, {"OUT": "S"})], extra=CACHED))
    with Server(repository, *SIZE, load=["square"]) as server:
        with pytest.raises(triton.InferenceServerException, match="'response_cache' cannot be used for ensemble 'e'"):
            server.client().load_model("e")


def test_the_unmodified_client_sees_hits(cached):
    client = cached.client()
    values = np.array([901.5], np.float32)
    tensor = triton.InferInput("INPUT0", values.shape, "FP32")
    tensor.set_data_from_numpy(values)
    results = [client.infer("direct", [tensor], request_id=id) for id in ("a", "b")]
    assert [result.get_response().id for result in results] == ["a", "b"]
    assert all(np.array_equal(result.as_numpy("OUTPUT0"), values) for result in results)
    stats = client.get_inference_statistics("direct", as_json=True)["model_stats"][0]
    assert int(stats["inference_stats"]["cache_hit"]["count"]) >= 1
