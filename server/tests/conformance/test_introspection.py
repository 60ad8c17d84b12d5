"""What a server tells of itself: metadata, configuration, statistics, reflection; and perf_analyzer's use of it."""

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from harness.models import DATATYPES, ensemble, write, write_add_sub, write_identity, write_repeat
from harness.server import Server
from harness.wire import INVALID, pb, refused, request

LIMIT_S = 60


def test_server_metadata(client):
    metadata = client.get_server_metadata()
    assert metadata.name and metadata.version
    extensions = set(metadata.extensions)
    assert {"classification", "sequence", "model_repository", "model_configuration", "parameters", "statistics"} <= extensions
    # Only what is served is listed: binary tensor data is an extension of the REST protocol.
    assert not extensions & {"system_shared_memory", "cuda_shared_memory", "trace", "logging", "binary_tensor_data"}
    assert len(extensions) == len(metadata.extensions)


def test_server_id(repository):
    write_identity(repository, "first")
    with Server(repository, "--id", "my server") as server:
        assert server.client().get_server_metadata().name == "my server"


@pytest.mark.parametrize("datatype", DATATYPES)
def test_model_metadata_of_each_datatype(client, datatype):
    metadata = client.get_model_metadata(f"identity_{datatype.lower()}")
    assert (metadata.name, list(metadata.versions), metadata.platform) == (
        f"identity_{datatype.lower()}", ["1"], "builtin")
    (given,), (produced,) = metadata.inputs, metadata.outputs
    assert (given.name, given.datatype, list(given.shape)) == ("INPUT0", datatype, [-1])
    assert (produced.name, produced.datatype, list(produced.shape)) == ("OUTPUT0", datatype, [-1])


def test_model_metadata_puts_the_batch_dimension_first(client):
    metadata = client.get_model_metadata("add_sub_batch")
    assert [list(tensor.shape) for tensor in metadata.inputs] == [[-1, 16], [-1, 16]]


def test_model_metadata_shows_dims_and_not_the_reshape(client):
    metadata = client.get_model_metadata("reshape_flat")
    assert (list(metadata.inputs[0].shape), list(metadata.outputs[0].shape)) == ([2, 8], [4, 4])


def test_model_metadata_of_an_ensemble(client):
    metadata = client.get_model_metadata("chain")
    assert metadata.platform == "ensemble"
    assert [tensor.name for tensor in metadata.inputs] == ["A", "B"]


def test_model_config_is_normalized(client):
    config = client.get_model_config("add_sub_fp32").config
    assert (config.name, config.backend, config.max_batch_size) == ("add_sub_fp32", "builtin", 8)
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.count, model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind)) == (1, "KIND_CPU")
    assert group.name
    batching = client.get_model_config("batch_fp32").config.dynamic_batching
    assert list(batching.preferred_batch_size) == [8]


def test_model_config_keeps_what_was_written(client):
    config = client.get_model_config("reshape_wild").config
    assert list(config.input[0].dims) == [4, -1, 2] and list(config.input[0].reshape.shape) == [2, 2, -1, 2]
    assert config.parameters["model"].string_value == "identity"
    steps = client.get_model_config("chain").config.ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["add_sub_batch", "add_sub_batch"]
    assert dict(steps[0].input_map) == {"INPUT0": "A", "INPUT1": "B"}


def statistics_of(stub, name, version=""):
    """Return the statistics of one model version."""
    (found,) = stub.ModelStatistics(
        pb.ModelStatisticsRequest(name=name, version=version), timeout=LIMIT_S).model_stats
    return found


PARTS = ("success", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture
def fresh(repository):
    """A server whose statistics begin at zero."""
    write_identity(repository, "plain", max_batch_size=8)
    write_identity(repository, "two", versions=(1, 2), extra="version_policy { all { } }")
    write_add_sub(repository, "add_sub", "INT32", [4], 4)
    write_repeat(repository, "repeat")
    write_repeat(repository, "repeat_unary", decoupled=False)
    vector = ("INT32", [4])
    write(repository, "chain", ensemble(
        "chain", [("A", *vector), ("B", *vector)], [("C", *vector)],
        [("add_sub", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "x", "OUTPUT1": "y"}),
         ("add_sub", {"INPUT0": "x", "INPUT1": "y"}, {"OUTPUT0": "C"})], 4))
    with Server(repository) as server:
        yield server


def test_statistics_begin_at_zero(fresh):
    statistics = statistics_of(fresh.stub(), "plain")
    assert (statistics.name, statistics.version) == ("plain", "1")
    assert (statistics.inference_count, statistics.execution_count, statistics.last_inference) == (0, 0, 0)
    assert len(statistics.batch_stats) == 0


def test_statistics_are_exact_when_the_reply_is_there(fresh):
    stub = fresh.stub()
    rows_in_all = 0
    for number, rows in enumerate([1, 2, 8, 1, 5], 1):
        stub.ModelInfer(request("plain", [("INPUT0", "FP32", [rows, 1], [0.0] * rows)]), timeout=LIMIT_S)
        rows_in_all += rows
        statistics = statistics_of(stub, "plain")
        assert statistics.inference_count == rows_in_all
        assert statistics.execution_count == number
        for part in PARTS:
            assert getattr(statistics.inference_stats, part).count == number, part
        assert statistics.inference_stats.fail.count == 0
    inference = statistics.inference_stats
    parts = sum(getattr(inference, part).ns for part in PARTS[1:])
    assert 0 < parts <= inference.success.ns
    assert {each.batch_size: each.compute_infer.count for each in statistics.batch_stats} == {1: 2, 2: 1, 5: 1, 8: 1}
    for each in statistics.batch_stats:
        assert each.compute_input.count == each.compute_output.count == each.compute_infer.count
    assert (inference.cache_hit.count, inference.cache_miss.count) == (0, 0)
    # Milliseconds since 1970, and of this century.
    assert statistics.last_inference > 1_600_000_000_000


def test_statistics_of_failures(fresh):
    stub = fresh.stub()
    message = request("repeat_unary", [("IN", "INT32", [1], [1]), ("DELAY", "UINT32", [2], [0, 0]),
                                       ("WAIT", "UINT32", [1], [0])])
    for number in range(1, 4):
        with refused(INVALID, "expected IN and DELAY shape"):
            stub.ModelInfer(message, timeout=LIMIT_S)
        inference = statistics_of(stub, "repeat_unary").inference_stats
        assert (inference.fail.count, inference.success.count) == (number, 0)


def test_statistics_of_refused_requests_do_not_count_as_inference(fresh):
    stub = fresh.stub()
    with refused(INVALID):
        stub.ModelInfer(request("plain", [("INPUT0", "FP32", [9, 1], [0.0] * 9)]), timeout=LIMIT_S)
    statistics = statistics_of(stub, "plain")
    assert (statistics.inference_count, statistics.execution_count) == (0, 0)
    assert statistics.inference_stats.success.count == 0


def test_statistics_of_each_version(fresh):
    stub = fresh.stub()
    for version, times in (("1", 2), ("2", 3)):
        for _ in range(times):
            stub.ModelInfer(request("two", [("INPUT0", "FP32", [1], [0.0])], version=version), timeout=LIMIT_S)
    assert statistics_of(stub, "two", "1").inference_count == 2
    assert statistics_of(stub, "two", "2").inference_count == 3
    both = stub.ModelStatistics(pb.ModelStatisticsRequest(name="two"), timeout=LIMIT_S).model_stats
    assert sorted((each.version, each.inference_count) for each in both) == [("1", 2), ("2", 3)]


def test_statistics_of_all_models(fresh):
    everything = fresh.stub().ModelStatistics(pb.ModelStatisticsRequest(), timeout=LIMIT_S).model_stats
    assert sorted((each.name, each.version) for each in everything) == [
        ("add_sub", "1"), ("chain", "1"), ("plain", "1"), ("repeat", "1"), ("repeat_unary", "1"), ("two", "1"),
        ("two", "2")]


def test_response_statistics_of_a_decoupled_model(fresh):
    stub = fresh.stub()
    message = request("repeat", [("IN", "INT32", [3], [1, 2, 3]), ("DELAY", "UINT32", [3], [0, 0, 0]),
                                 ("WAIT", "UINT32", [1], [0])],
                      parameters={"triton_enable_empty_final_response": True})
    assert len(list(stub.ModelStreamInfer(iter([message]), timeout=LIMIT_S))) == 4
    statistics = statistics_of(stub, "repeat")
    assert statistics.inference_stats.success.count == 1
    responses = statistics.response_stats
    assert [responses[str(number)].success.count for number in range(3)] == [1, 1, 1]
    assert all(responses[str(number)].fail.count == 0 for number in range(3))
    assert responses["3"].empty_response.count == 1


def test_statistics_as_json_as_tritonclient_gives_them(fresh):
    client = fresh.client()
    statistics = client.get_inference_statistics("plain", as_json=True)
    assert statistics["model_stats"][0]["name"] == "plain"


def test_statistics_of_an_ensemble(fresh):
    stub = fresh.stub()
    message = request("chain", [("A", "INT32", [1, 4], [1] * 4), ("B", "INT32", [1, 4], [2] * 4)])
    for _ in range(3):
        stub.ModelInfer(message, timeout=LIMIT_S)
    ensemble_statistics, step = statistics_of(stub, "chain"), statistics_of(stub, "add_sub")
    assert (ensemble_statistics.execution_count, ensemble_statistics.inference_stats.success.count) == (3, 3)
    assert step.inference_stats.success.count == 6 and step.inference_count == 6


def perf_analyzer_window(client, models, infer, rounds):
    """Measure one window as perf_analyzer does: the difference of each count over the window, for each model."""
    def snapshot():
        return {name: client.get_inference_statistics(name).model_stats[0] for name in models}
    before = snapshot()
    for _ in range(rounds):
        infer()
    after = snapshot()

    def difference(name, part):
        new, old = (getattr(taken[name].inference_stats, part) for taken in (after, before))
        assert new.count >= old.count and new.ns >= old.ns
        return new.count - old.count

    return {name: {part: difference(name, part) for part in PARTS + ("fail", "cache_hit", "cache_miss")}
            for name in models}


def composing_models(client, name):
    """Fetch the configuration of an ensemble and of all models below it, indexing without checks."""
    config = client.get_model_config(name, as_json=True)["config"]
    found = {name: config}
    for step in config.get("ensemble_scheduling", {}).get("step", []):
        found |= composing_models(client, step["model_name"])
    return found


@pytest.mark.parametrize("model, datatype, names", [
    ("plain", "FP32", ["plain"]), ("chain", "INT32", ["chain", "add_sub"])])
def test_perf_analyzer_shaped_use(fresh, model, datatype, names):
    client = fresh.client()
    assert client.is_server_live() and client.is_model_ready(model)
    assert "statistics" in client.get_server_metadata(as_json=True)["extensions"]
    metadata = client.get_model_metadata(model, as_json=True)
    configs = composing_models(client, model)
    assert sorted(configs) == sorted(names)
    rows = 2 if configs[model]["max_batch_size"] > 0 else None
    inputs = []
    for tensor in metadata["inputs"]:
        assert tensor["datatype"] == datatype
        shape = [int(dim) for dim in tensor["shape"]]
        shape = [rows] + [dim if dim > 0 else 1 for dim in shape[1:]]
        given = triton.InferInput(tensor["name"], shape, datatype)
        given.set_data_from_numpy(np.ones(shape, np.int32 if datatype == "INT32" else np.float32))
        inputs.append(given)
    for _ in range(3):
        window = perf_analyzer_window(client, names, lambda: client.infer(model, inputs, client_timeout=LIMIT_S), 20)
        for name in names:
            expected = 40 if name == "add_sub" else 20
            counts = window[name]
            assert counts["success"] == counts["queue"] == expected, (name, counts)
            assert counts["compute_input"] == counts["compute_infer"] == counts["compute_output"], (name, counts)
            assert counts["fail"] == counts["cache_hit"] == counts["cache_miss"] == 0
            if name != "chain":
                assert counts["compute_infer"] == expected


def reflect(zoo, service, **asked):
    """Ask a reflection service one question."""
    call = zoo.channel().stream_stream(
        f"/{service}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    (reply,) = call(iter([reflection_pb2.ServerReflectionRequest(**asked)]), timeout=LIMIT_S)
    return reply


# The messages of both versions are the same on the wire; tools ask for v1 first and then for v1alpha.
REFLECTION = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"]


@pytest.mark.parametrize("service", REFLECTION)
def test_reflection_lists_the_services(zoo, service):
    reply = reflect(zoo, service, list_services="*")
    names = {each.name for each in reply.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


def reflected_files(zoo):
    """Return every file that the service's file depends on, itself included, by name."""
    files, wanted = {}, [("file_containing_symbol", "inference.GRPCInferenceService")]
    while wanted:
        question, name = wanted.pop()
        reply = reflect(zoo, REFLECTION[0], **{question: name})
        assert not reply.HasField("error_response"), reply.error_response.error_message
        for raw in reply.file_descriptor_response.file_descriptor_proto:
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
            if file.name not in files:
                files[file.name] = file
                wanted += [("file_by_filename", dependency) for dependency in file.dependency
                           if dependency not in files]
    return files


def flatten(file, messages, enums):
    """Collect messages and enums of a file by full name."""
    def walk(prefix, message):
        name = f"{prefix}.{message.name}"
        messages[name] = message
        for each in message.nested_type:
            walk(name, each)
        for each in message.enum_type:
            enums[f"{name}.{each.name}"] = each
    for message in file.message_type:
        walk(file.package, message)
    for each in file.enum_type:
        enums[f"{file.package}.{each.name}"] = each


def shape_of(message):
    """Return the fields of a message as {number: (name, type, label, type name, oneof)}."""
    return {
        field.number: (
            field.name, descriptor_pb2.FieldDescriptorProto.Type.Name(field.type),
            descriptor_pb2.FieldDescriptorProto.Label.Name(field.label), field.type_name.lstrip("."),
            message.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else "")
        for field in message.field
    }


def test_descriptors_equal_those_of_tritonclient(zoo):
    served_messages, served_enums, known_messages, known_enums = {}, {}, {}, {}
    files = reflected_files(zoo)
    for file in files.values():
        flatten(file, served_messages, served_enums)
    for module in (service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        flatten(file, known_messages, known_enums)
    assert len(known_messages) > 100
    missing = sorted(set(known_messages) - set(served_messages))
    assert missing == []
    for name, known in known_messages.items():
        assert shape_of(served_messages[name]) == shape_of(known), name
    for name, known in known_enums.items():
        assert {value.name: value.number for value in served_enums[name].value} == {
            value.name: value.number for value in known.value}, name
    served = {method.name: method for file in files.values() for service in file.service
              if service.name == "GRPCInferenceService" for method in service.method}
    for method in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        proto = descriptor_pb2.MethodDescriptorProto()
        method.CopyToProto(proto)
        assert shape_of_method(served[proto.name]) == shape_of_method(proto), proto.name


def shape_of_method(method):
    """Return what a method takes and gives."""
    return method.input_type, method.output_type, method.client_streaming, method.server_streaming
