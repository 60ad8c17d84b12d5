"""Model configurations: what is refused and by which text, what is accepted with a warning, the dialect of pbtxt."""

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.models import config, write, write_identity
from harness.server import Server
from harness.wire import outputs_of, request

LIMIT_S = 60

PLAIN = '''
backend: "builtin"
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ -1 ] }
parameters { key: "model" value { string_value: "identity" } }
'''


def with_input(text):
    """Return a configuration with another input."""
    return PLAIN.replace('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }', text)


REFUSED = {
    "syntax": (PLAIN + "max_batch_size: [", r"config\.pbtxt:\d+:\d+"),
    "unknown field": (PLAIN + "max_batchsize: 3\n", r"config\.pbtxt:6:1.*max_batchsize.*did you mean `?max_batch_size"),
    "unknown datatype": (PLAIN.replace("TYPE_FP32", "TYPE_FLOAT32", 1), r"TYPE_FLOAT32"),
    "value out of range": (PLAIN + "max_batch_size: 99999999999\n", r"max_batch_size|99999999999"),
    "negative batch size": (PLAIN + "max_batch_size: -1\n", r"max_batch_size"),
    "no backend": (PLAIN.replace('backend: "builtin"', ""), r"backend"),
    "unknown backend": (PLAIN.replace('"builtin"', '"tensorrt"'), r"tensorrt"),
    "unknown builtin": (PLAIN.replace('"identity"', '"identiti"'), r"identiti"),
    "input without a name": (with_input("input { data_type: TYPE_FP32 dims: [ 1 ] }"), r"model input must specify 'name'"),
    "input without a datatype": (
        with_input('input { name: "INPUT0" dims: [ 1 ] }'), r"model input 'INPUT0' must specify 'data_type'"),
    "input without dims": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 }'), r"model input 'INPUT0' must specify 'dims'"),
    "dimension of zero": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 0 ] }'),
        r"model input 'INPUT0' dimension must be integer >= 1, or -1 to indicate a variable-size dimension"),
    "dimension of -2": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -2 ] }'),
        r"model input 'INPUT0' dimension must be integer >= 1, or -1 to indicate a variable-size dimension"),
    "reshape of another size": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 5 ] } }'), r"INPUT0"),
    "empty reshape without batching": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }'), r"INPUT0"),
    "format of the wrong rank": (
        with_input('input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 4 ] format: FORMAT_NCHW }'), r"INPUT0"),
    "two inputs of one name": (
        PLAIN + 'input { name: "INPUT0" data_type: TYPE_FP32 dims: [ -1 ] }\n', r"INPUT0"),
    "preferred size beyond the maximum": (
        PLAIN + "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 8 ] }\n",
        r"dynamic batching preferred size must be <= max batch size for m"),
    "preferred size of zero": (
        PLAIN + "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 0 ] }\n",
        r"dynamic batching preferred size must be positive for m"),
    "default priority out of range": (
        PLAIN + "max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 3 }\n", r"priority"),
    "ordering with priorities": (
        PLAIN + "max_batch_size: 4 dynamic_batching { priority_levels: 2 default_priority_level: 1 "
                "preserve_ordering: true }\n", r"preserve_ordering"),
    "negative instance count": (PLAIN + "instance_group { count: -1 }\n", r"count|instance"),
    "GPU where there is none": (PLAIN + "instance_group { count: 1 kind: KIND_GPU gpus: [ 97 ] }\n", r"(?i)gpu"),
    "requests that run again by themselves": (
        PLAIN + "max_batch_size: 4 sequence_batching { iterative_sequence: true }\n",
        r"'sequence_batching.iterative_sequence' is not supported"),
    "batch input": (
        PLAIN + 'batch_input { kind: BATCH_ELEMENT_COUNT target_name: "X" data_type: TYPE_FP32 source_input: "INPUT0" }\n',
        r"batch_input"),
    "cached answers of a decoupled model": (
        PLAIN + "response_cache { enable: true } model_transaction_policy { decoupled: true }\n",
        r"'response_cache' cannot be used with a decoupled"),
    "shared executions of a decoupled model": (
        PLAIN + 'parameters { key: "single_flight" value { string_value: "true" } } '
                "model_transaction_policy { decoupled: true }\n", r"single_flight.* cannot be used with a decoupled"),
    "cached answers of sequences": (
        PLAIN + "max_batch_size: 4 sequence_batching { } response_cache { enable: true }\n",
        r"'response_cache' cannot be used with sequence_batching"),
    "single flight by another word": (
        PLAIN + 'parameters { key: "single_flight" value { string_value: "yes" } }\n', r"true or false, got yes"),
    "repository agents": (
        PLAIN + 'model_repository_agents { agents { name: "checksum" } }\n', r"model_repository_agents"),
    "custom operations": (PLAIN + 'model_operations { op_library_filename: "x.so" }\n', r"model_operations"),
    "labels that are not there": (
        PLAIN.replace('output { name: "OUTPUT0"', 'output { label_filename: "labels.txt" name: "OUTPUT0"'), r"labels\.txt"),
    "labels outside of the model": (
        PLAIN.replace('output { name: "OUTPUT0"', 'output { label_filename: "../../etc/passwd" name: "OUTPUT0"'),
        r"passwd|label"),
    "warmup of an unknown input": (
        PLAIN + 'model_warmup { name: "w" batch_size: 1 inputs { key: "X" value { data_type: TYPE_FP32 dims: [ 1 ] '
                'zero_data: true } } }\n', r"w|X"),
    "warmup that no memory holds": (
        PLAIN + 'model_warmup { name: "w" batch_size: 1 inputs { key: "INPUT0" value { data_type: TYPE_FP32 '
                'dims: [ 1000000000000 ] zero_data: true } } }\n', r"input 'INPUT0' is too large"),
    "random warmup that no memory holds": (
        PLAIN + 'model_warmup { name: "w" batch_size: 1 inputs { key: "INPUT0" value { data_type: TYPE_FP32 '
                'dims: [ 1000000000000 ] random_data: true } } }\n', r"input 'INPUT0' is too large"),
    "warmup of more rows than a batch": (
        PLAIN + 'max_batch_size: 4 model_warmup { name: "w" batch_size: 4000000000 inputs { key: "INPUT0" value { '
                'data_type: TYPE_FP32 dims: [ 1 ] zero_data: true } } }\n',
        r"batch_size' must be at most 'max_batch_size', got 4000000000"),
    "more instances than one model may have": (
        PLAIN + "instance_group { count: 200 kind: KIND_CPU }\n" * 2, r"at most 256 instances .*, got 400"),
    "datatype of an unknown number": (
        with_input('input { name: "INPUT0" data_type: 99 dims: [ 1 ] }'), r"INPUT0.*data_type.*got 99"),
    "bytes that are no text": (PLAIN + "# mod\udce8le\n", r"config\.pbtxt:6:6: byte 0xE8 is not UTF-8"),
    "number that is none": (
        PLAIN + 'parameters { key: "execute_delay_ms" value { string_value: "soon" } }\n', r"execute_delay_ms"),
}


@pytest.fixture(scope="module")
def loading(tmp_path_factory):
    """A server that loads what the tests write."""
    repository = tmp_path_factory.mktemp("loading")
    write_identity(repository, "bystander")
    with Server(repository, load=("bystander",)) as server:
        yield server


def load(server, name):
    """Load a model."""
    server.stub().RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=LIMIT_S)


@pytest.mark.parametrize("case", REFUSED)
def test_configurations_that_are_refused(loading, case):
    text, pattern = REFUSED[case]
    write(loading.repository, "m", text)
    with pytest.raises(grpc.RpcError, match=pattern):
        load(loading, "m")
    stub = loading.stub()
    assert not stub.ModelReady(pb.ModelReadyRequest(name="m"), timeout=LIMIT_S).ready
    assert stub.ModelReady(pb.ModelReadyRequest(name="bystander"), timeout=LIMIT_S).ready


DIALECT = {
    "braces": PLAIN,
    "lists without a colon": '''
        backend: "builtin"
        input [ { name: "INPUT0" data_type: TYPE_FP32 dims [ -1 ] } ]
        output [ { name: "OUTPUT0", data_type: TYPE_FP32, dims: [ -1 ] } ]
        parameters [ { key: "model", value: { string_value: "identity" } } ]
        ''',
    "angle brackets and semicolons": '''
        backend: "builtin";
        input < name: "INPUT0"; data_type: TYPE_FP32; dims: -1; >
        output: < name: "OUTPUT0", data_type: TYPE_FP32, dims: [ -1 ] >
        parameters: { key: "model" value: < string_value: "identity" > }
        ''',
    "single quotes, comments, numbers": '''
        # A comment.
        backend: 'built' "in"  # Another.
        input { name: 'INPUT0' data_type: 11 dims: -0x1 }
        output { name: "OUTPUT0" data_type: 11 dims: [ -1 ] }
        parameters { key: "model" value { string_value: 'identity' } }
        ''',
    "line ends of Windows": PLAIN.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("case", DIALECT)
def test_dialect_of_pbtxt(loading, case):
    name = f"dialect_{list(DIALECT).index(case)}"
    write(loading.repository, name, DIALECT[case])
    load(loading, name)
    reply = loading.stub().ModelInfer(request(name, [("INPUT0", "FP32", [2], [1.0, 2.0])]), timeout=LIMIT_S)
    assert list(outputs_of(reply)["OUTPUT0"][2]) == [1.0, 2.0]


def test_zeros_that_no_memory_holds_fail_the_request_alone(loading):
    text = PLAIN.replace("[ -1 ] }", "[ 1000000000000 ] }").replace("input {", "input { optional: true", 1)
    write(loading.repository, "vast", text + 'input { name: "INPUT1" data_type: TYPE_FP32 dims: [ 1 ] }\n')
    load(loading, "vast")
    with pytest.raises(grpc.RpcError, match="too large to be filled with zeros"):
        loading.stub().ModelInfer(request("vast", [("INPUT1", "FP32", [1], [1.0])]), timeout=LIMIT_S)
    loading.stub().ModelInfer(request("bystander", [("INPUT0", "FP32", [1], [1.0])]), timeout=LIMIT_S)


HINTS = {
    "optimization.execution_accelerators": "optimization { execution_accelerators { gpu_execution_accelerator : "
                                           '[ { name: "tensorrt" } ] } }',
    "cc_model_filenames": 'cc_model_filenames { key: "7.5" value: "x.plan" }',
    "optimization.cuda": "optimization { cuda { graphs: true } }",
    "optimization.input_pinned_memory": "optimization { input_pinned_memory { enable: true } }",
}


@pytest.mark.parametrize("field", HINTS)
def test_hints_for_other_servers_are_accepted_and_named(loading, field):
    name = "hint_" + field.replace(".", "_")
    write(loading.repository, name, PLAIN + HINTS[field] + "\n")
    load(loading, name)
    lines = [line for line in loading.log().splitlines() if name in line and field in line]
    assert lines, f"no warning names {field} of {name}:\n{loading.log()[-2000:]}"


def test_warmup_runs_before_ready(loading):
    write(loading.repository, "warm", PLAIN + '''
        max_batch_size: 4
        model_warmup [
          { name: "zeros" batch_size: 2 inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: [ 3 ] zero_data: true } } },
          { name: "random" batch_size: 1 count: 3
            inputs { key: "INPUT0" value { data_type: TYPE_FP32 dims: [ 5 ] random_data: true } } }
        ]''')
    load(loading, "warm")
    (statistics,) = loading.stub().ModelStatistics(pb.ModelStatisticsRequest(name="warm"), timeout=LIMIT_S).model_stats
    # Warmup is no inference of a client.
    assert statistics.inference_stats.success.count == 0


def test_several_instances(loading):
    write(loading.repository, "several", config(
        "several", "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])],
        extra="instance_group [ { count: 3 kind: KIND_CPU } ]"))
    load(loading, "several")
    stub = loading.stub()
    calls = [stub.ModelInfer.future(request("several", [("INPUT0", "FP32", [1], [value])]), timeout=LIMIT_S)
             for value in (0.2, 0.1, 0.0) * 5]
    assert [float(outputs_of(call.result())["OUTPUT0"][2][0]) for call in calls] == pytest.approx([0.2, 0.1, 0.0] * 5)


def test_dynamic_batching_puts_requests_together(loading):
    write_identity(loading.repository, "together", max_batch_size=8, parameters={"execute_delay_ms": "20"},
                   extra="dynamic_batching { max_queue_delay_microseconds: 20000 }")
    load(loading, "together")
    stub = loading.stub()
    calls = [stub.ModelInfer.future(request("together", [("INPUT0", "FP32", [1, 1], [float(number)])]), timeout=LIMIT_S)
             for number in range(200)]
    assert [float(outputs_of(call.result())["OUTPUT0"][2][0]) for call in calls] == [float(n) for n in range(200)]
    (statistics,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="together"), timeout=LIMIT_S).model_stats
    assert statistics.inference_count == 200
    assert statistics.execution_count < 100, "requests that waited together were not batched"
    assert max(each.batch_size for each in statistics.batch_stats) > 4
    assert sum(each.batch_size * each.compute_infer.count for each in statistics.batch_stats) == 200


def test_requests_of_different_shapes_do_not_meet_in_a_batch(loading):
    write_identity(loading.repository, "mixed", max_batch_size=8, parameters={"execute_delay_ms": "5"},
                   extra="dynamic_batching { max_queue_delay_microseconds: 5000 }")
    load(loading, "mixed")
    stub = loading.stub()
    calls = [(number, stub.ModelInfer.future(
        request("mixed", [("INPUT0", "FP32", [1, 1 + number % 3], [float(number)] * (1 + number % 3))]),
        timeout=LIMIT_S)) for number in range(100)]
    for number, call in calls:
        assert list(outputs_of(call.result())["OUTPUT0"][2]) == [float(number)] * (1 + number % 3)
