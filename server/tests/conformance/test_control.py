"""The model repository over the wire: index, load, unload, overrides, dependents, and that a load disturbs nothing."""

import json
import threading

import grpc
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from harness.models import config, ensemble, write, write_add_sub, write_identity
from harness.server import Server, wait_until
from harness.wire import INTERNAL, INVALID, NOT_FOUND, UNAVAILABLE, UNIMPLEMENTED, outputs_of, refused, request

LIMIT_S = 60

IDENTITY_JSON = {
    "backend": "builtin", "max_batch_size": 4,
    "input": [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "output": [{"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]}],
    "parameters": {"model": {"string_value": "identity"}},
}


def load(stub, name, config=None, files=None):
    """Load a model, with overrides."""
    message = pb.RepositoryModelLoadRequest(model_name=name)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        message.parameters["config"].string_param = text
    for path, content in (files or {}).items():
        message.parameters[path].bytes_param = content
    return stub.RepositoryModelLoad(message, timeout=LIMIT_S)


def unload(stub, name, dependents=None):
    """Unload a model."""
    message = pb.RepositoryModelUnloadRequest(model_name=name)
    if dependents is not None:
        message.parameters["unload_dependents"].bool_param = dependents
    return stub.RepositoryModelUnload(message, timeout=LIMIT_S)


def index(stub, ready=False):
    """Return the index as a sorted list of (name, version, state)."""
    reply = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=LIMIT_S)
    return sorted((model.name, model.version, model.state) for model in reply.models)


def reason(stub, name, version="1"):
    """Return the reason that the index gives for a model version."""
    reply = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=LIMIT_S)
    (found,) = [model.reason for model in reply.models if (model.name, model.version) == (name, version)]
    return found


def is_ready(stub, name, version=""):
    """Ask ModelReady."""
    return stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=LIMIT_S).ready


def wait_unloaded(stub, name, version="1"):
    """Wait for the end of an unload, which goes on after its reply."""
    wait_until(lambda: (name, version, "UNAVAILABLE") in index(stub), f"'{name}' version {version} is unloaded")


def infer(stub, model, rows=None, version=""):
    """Send one row (or a plain vector) through an identity model and return the reply."""
    shape = [1] if rows is None else [rows, 1]
    return stub.ModelInfer(request(model, [("INPUT0", "FP32", shape, [1.0] * (rows or 1))], version=version),
                           timeout=LIMIT_S)


def max_batch_size(stub, name):
    """Return max_batch_size of the configuration that serves."""
    return stub.ModelConfig(pb.ModelConfigRequest(name=name), timeout=LIMIT_S).config.max_batch_size


@pytest.fixture
def server(repository):
    """A server in explicit mode with nothing loaded and three models at hand."""
    write_identity(repository, "first", max_batch_size=8)
    write_identity(repository, "second")
    write(repository, "broken", config(
        "broken", "no_such_kind", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])]))
    with Server(repository, load=()) as running:
        yield running


@pytest.fixture
def control(server):
    """The stub of that server."""
    return server.stub()


def test_index_lists_models_that_were_never_loaded_by_name_only(control):
    assert index(control) == [("broken", "", ""), ("first", "", ""), ("second", "", "")]
    assert index(control, ready=True) == []


def test_load_and_unload(control):
    load(control, "first")
    assert ("first", "1", "READY") in index(control)
    assert index(control, ready=True) == [("first", "1", "READY")]
    assert is_ready(control, "first") and not is_ready(control, "second")
    infer(control, "first", 1)
    unload(control, "first")
    wait_unloaded(control, "first")
    assert reason(control, "first") == "unloaded"
    assert not is_ready(control, "first")
    with refused(NOT_FOUND, r"^Request for unknown model: 'first' has no available versions$"):
        infer(control, "first", 1)
    with refused(UNAVAILABLE, r"^Request for unknown model: 'first' version 1 is not at ready state$"):
        infer(control, "first", 1, "1")
    load(control, "first")
    infer(control, "first", 1)


def test_tritonclient_control(server):
    client = server.client()
    client.load_model("second")
    assert client.is_model_ready("second")
    states = {model["name"]: model.get("state") for model in
              client.get_model_repository_index(as_json=True)["models"]}
    assert states == {"first": None, "second": "READY", "broken": None}
    client.unload_model("second")
    wait_until(lambda: not client.is_model_ready("second"), "'second' is unloaded")


def test_index_of_a_named_repository(control):
    with refused(UNIMPLEMENTED, r"^'repository_name' specification is not supported$"):
        control.RepositoryIndex(pb.RepositoryIndexRequest(repository_name="mine"), timeout=LIMIT_S)


def test_load_failure(control):
    with refused(INVALID, r"^load failed for model 'broken': version 1 is at UNAVAILABLE state: .*no_such_kind.*;\n$"):
        load(control, "broken")
    assert ("broken", "1", "UNAVAILABLE") in index(control)
    assert "no_such_kind" in reason(control, "broken")
    assert not is_ready(control, "broken")


def test_model_that_is_not_in_the_repository(control):
    with refused(INTERNAL, r"^failed to load 'missing', failed to poll from model repository$"):
        load(control, "missing")


def test_unload_of_what_is_not_loaded_is_fine(control):
    unload(control, "missing")
    unload(control, "second")


NAMES = {
    "empty": ("", r"^Model name cannot be empty\. Please enter a valid name to deploy\.$"),
    "blank": ("  \t", r"^Model name cannot be empty\. Please enter a valid name to deploy\.$"),
    "slash": ("a/b", r"^invalid model name 'a/b', model name must not contain path traversal characters$"),
    "absolute": ("/etc", r"^invalid model name '/etc', model name must not contain path traversal characters$"),
    "parent": ("..", r"^invalid model name '\.\.', model name must not contain path traversal characters$"),
    "parent with spaces": (" .. ", r"model name must not contain path traversal characters$"),
    "up and down": ("../first", r"model name must not contain path traversal characters$"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_that_are_refused(control, case):
    name, pattern = NAMES[case]
    with refused(INVALID, pattern):
        load(control, name)


def test_name_with_a_nul_character(control):
    with refused(INTERNAL, r"^failed to load 'a\x00b', failed to poll from model repository: .*NUL"):
        load(control, "a\0b", config='{"backend": "builtin"}', files={"file:1/x": b""})
    assert all("\0" not in name for name, *_ in index(control))


@pytest.mark.parametrize("name", ["...", "a..b"])
def test_names_with_dots_are_legal(control, server, name):
    write_identity(server.repository, name)
    load(control, name)
    infer(control, name)


PARAMETERS = {
    "unknown": ({"mine": "x"}, r"unrecognized load parameter 'mine'"),
    "config as a number": ({"config": 1}, r"invalid value type for load parameter 'config', expected string_param\."),
    "config as bytes": ({"config": b"{}"}, r"invalid value type for load parameter 'config', expected string_param\."),
    "file as text": ({"file:1/x": "text"}, r"invalid value type for load parameter 'file:1/x', expected bytes_param\."),
}


@pytest.mark.parametrize("case", PARAMETERS)
def test_load_parameters_that_are_refused(control, case):
    parameters, pattern = PARAMETERS[case]
    message = pb.RepositoryModelLoadRequest(model_name="first")
    for key, value in parameters.items():
        field = {bytes: "bytes_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[key], field, value)
    with refused(INVALID, pattern):
        control.RepositoryModelLoad(message, timeout=LIMIT_S)


def test_unload_parameter_of_the_wrong_type(control):
    message = pb.RepositoryModelUnloadRequest(model_name="first")
    message.parameters["unload_dependents"].string_param = "yes"
    with refused(INVALID, r"unload_dependents"):
        control.RepositoryModelUnload(message, timeout=LIMIT_S)


def test_reload_without_changes_does_nothing(control):
    load(control, "first")
    infer(control, "first", 1)
    load(control, "first")
    # A model that was loaded anew would have begun its statistics anew.
    (statistics,) = control.ModelStatistics(pb.ModelStatisticsRequest(name="first"), timeout=LIMIT_S).model_stats
    assert statistics.inference_count == 1


def test_reload_after_a_change(control, server):
    load(control, "first")
    write_identity(server.repository, "first", max_batch_size=3)
    load(control, "first")
    assert max_batch_size(control, "first") == 3


def test_new_version_on_disk(control, server):
    load(control, "first")
    (server.repository / "first" / "2").mkdir()
    load(control, "first")
    assert infer(control, "first", 1).model_version == "2"
    wait_unloaded(control, "first", "1")


class Traffic:
    """Sends requests without a pause from its own thread and keeps every failure."""

    def __init__(self, stub, model):
        self._stub, self._model = stub, model
        self._stop = threading.Event()
        self.sent, self.failures = 0, []
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        while not self._stop.is_set():
            try:
                infer(self._stub, self._model, 1)
            except grpc.RpcError as error:
                self.failures.append((error.code(), error.details()))
            self.sent += 1

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.sent > 20, "traffic flows")
        return self

    def __exit__(self, *_):
        seen = self.sent
        wait_until(lambda: self.sent > seen + 20 or self.failures, "traffic goes on")
        self._stop.set()
        self._thread.join(LIMIT_S)


def test_reloads_under_load_lose_no_request(control, server):
    load(control, "first")
    with Traffic(server.stub(), "first") as traffic:
        for size in range(1, 9):
            write_identity(server.repository, "first", max_batch_size=size,
                           parameters={"creation_delay_sec": "0.05"})
            load(control, "first")
            assert max_batch_size(control, "first") == size
    assert traffic.failures == []


def test_failed_reload_leaves_the_old_one_serving(control, server):
    load(control, "first")
    with Traffic(server.stub(), "first") as traffic:
        for broken in ("no_such_kind", "nothing_either"):
            write(server.repository, "first", config(
                "first", broken, [("INPUT0", "FP32", [-1])], [("OUTPUT0", "FP32", [-1])], 8))
            with refused(INVALID, rf"^load failed for model 'first': .*{broken}"):
                load(control, "first")
            assert is_ready(control, "first")
        (server.repository / "first" / "config.pbtxt").write_text("max_batch_sise: 3")
        with pytest.raises(grpc.RpcError, match="first"):
            load(control, "first")
        with refused(INVALID, "Invalid config override"):
            load(control, "first", config="{")
    assert traffic.failures == []
    assert max_batch_size(control, "first") == 8
    write_identity(server.repository, "first", max_batch_size=2)
    load(control, "first")
    assert max_batch_size(control, "first") == 2


def test_config_override(control):
    load(control, "second", config=IDENTITY_JSON)
    assert max_batch_size(control, "second") == 4
    infer(control, "second", 4)
    # It survives a plain load while the files stay as they are, and an unload drops it.
    load(control, "second")
    assert max_batch_size(control, "second") == 4
    unload(control, "second")
    wait_unloaded(control, "second")
    load(control, "second")
    assert max_batch_size(control, "second") == 0


def test_config_override_ends_when_the_files_change(control, server):
    load(control, "second", config=IDENTITY_JSON)
    write_identity(server.repository, "second", max_batch_size=6)
    load(control, "second")
    assert max_batch_size(control, "second") == 6


def test_tritonclient_config_override(server):
    client = server.client()
    client.load_model("second", config=json.dumps(IDENTITY_JSON))
    assert client.get_model_config("second").config.max_batch_size == 4


OVERRIDES = {
    "no JSON": "{", "a list": "[]", "an unknown field": '{"max_batch": 3}', "a wrong type": '{"max_batch_size": "x"}',
    "an unknown enum": '{"input": [{"name": "I", "data_type": "TYPE_FLOAT", "dims": [1]}]}',
    "deep nesting": "[" * 100_000, "empty": "",
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_config_overrides_that_are_refused(control, case):
    load(control, "second")
    with refused(INVALID, r"Invalid config override: "):
        load(control, "second", config=OVERRIDES[case])
    infer(control, "second")


def test_config_override_with_another_name(control):
    with pytest.raises(grpc.RpcError, match="second"):
        load(control, "second", config={**IDENTITY_JSON, "name": "other"})


def test_file_override(control, server):
    load(control, "second", config=IDENTITY_JSON, files={"file:5/weights.bin": b"\0\1\2"})
    assert ("second", "5", "READY") in index(control)
    assert infer(control, "second", 1).model_version == "5"
    assert not (server.repository / "second" / "5").exists()
    # The next plain load undoes it.
    load(control, "second")
    assert infer(control, "second").model_version == "1"


def test_file_override_of_a_model_that_is_not_on_disk(control):
    load(control, "uploaded", config=IDENTITY_JSON, files={"file:1/model.bin": b"x"})
    infer(control, "uploaded", 2)
    unload(control, "uploaded")
    wait_until(lambda: not is_ready(control, "uploaded"), "'uploaded' is unloaded")


def test_tritonclient_file_override(server):
    client = server.client()
    client.load_model("second", config=json.dumps(IDENTITY_JSON), files={"file:3/weights.bin": b"\0"})
    assert client.is_model_ready("second", "3")


def test_file_override_needs_a_config(control):
    with pytest.raises(grpc.RpcError, match="config") as caught:
        load(control, "second", files={"file:1/weights.bin": b"x"})
    assert caught.value.code() in (INVALID, INTERNAL)


ESCAPES = ["../escape", "1/../../escape", "1/../../../escape", "/tmp/alcedo-escape", "", "1/", "..", "1/./../../x",
           "1/a\0b"]


@pytest.mark.parametrize("path", ESCAPES, ids=[repr(path) for path in ESCAPES])
def test_file_overrides_that_escape_are_refused(control, server, path):
    load(control, "second")
    with pytest.raises(grpc.RpcError) as caught:
        load(control, "second", config=IDENTITY_JSON, files={f"file:{path}": b"x"})
    assert caught.value.code() in (INVALID, INTERNAL)
    assert not list(server.repository.parent.rglob("escape"))
    infer(control, "second")


def test_name_must_be_that_of_the_directory(control, server):
    write(server.repository, "directory", config(
        "other", "identity", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])]))
    with pytest.raises(grpc.RpcError, match=r"unexpected directory name 'directory' for model 'other', directory name "
                                            r"must equal model name|failed to load 'directory', failed to poll"):
        load(control, "directory")


def test_no_version_under_the_policy(control, server):
    write_identity(server.repository, "empty", extra="version_policy { specific { versions: [ 7 ] } }")
    with pytest.raises(grpc.RpcError, match="at least one version must be available under the version policy of "
                                            "model 'empty'"):
        load(control, "empty")


def test_loading_many_models_at_once(control, server):
    for number in range(12):
        write_identity(server.repository, f"many_{number}", parameters={"creation_delay_sec": "0.2"})
    calls = [control.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name=f"many_{number}"),
                                                timeout=LIMIT_S) for number in range(12)]
    for call in calls:
        call.result()
    assert all(is_ready(control, f"many_{number}") for number in range(12))


def test_loads_of_one_model_at_once(control):
    calls = [control.RepositoryModelLoad.future(pb.RepositoryModelLoadRequest(model_name="first"), timeout=LIMIT_S)
             for _ in range(20)]
    for call in calls:
        call.result()
    infer(control, "first", 1)


VECTOR = ("INT32", [4])


def write_ensemble(repository):
    """Write an ensemble `sum` over `left` and `right`."""
    write_add_sub(repository, "left", "INT32", [4])
    write_add_sub(repository, "right", "INT32", [4])
    write(repository, "sum", ensemble(
        "sum", [("A", *VECTOR), ("B", *VECTOR)], [("C", *VECTOR)],
        [("left", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "x"}),
         ("right", {"INPUT0": "x", "INPUT1": "B"}, {"OUTPUT0": "C"})]))


def ask_ensemble(stub, name="sum"):
    """Infer through the ensemble and check the answer."""
    message = request(name, [("A", "INT32", [4], [1] * 4), ("B", "INT32", [4], [2] * 4)])
    assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["C"][2]) == [5] * 4


def test_loading_an_ensemble_loads_its_composing_models(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    assert index(control, ready=True) == [("left", "1", "READY"), ("right", "1", "READY"), ("sum", "1", "READY")]
    ask_ensemble(control)


def test_unloading_a_composing_model_makes_the_ensemble_unavailable(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    unload(control, "left")
    wait_until(lambda: not is_ready(control, "sum") and not is_ready(control, "left"), "'sum' is unavailable")
    assert is_ready(control, "right")
    with pytest.raises(grpc.RpcError, match="'sum'") as caught:
        ask_ensemble(control)
    assert caught.value.code() in (NOT_FOUND, UNAVAILABLE)
    # It was unloaded implicitly, so the composing model's load brings it back.
    load(control, "left")
    wait_until(lambda: is_ready(control, "sum"), "'sum' is back")
    ask_ensemble(control)


def test_an_ensemble_that_was_unloaded_stays_so(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    unload(control, "sum")
    wait_unloaded(control, "sum")
    assert is_ready(control, "left") and is_ready(control, "right")
    unload(control, "left")
    wait_unloaded(control, "left")
    load(control, "left")
    assert not is_ready(control, "sum")


def test_unload_dependents(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    unload(control, "sum", dependents=True)
    wait_until(lambda: index(control, ready=True) == [], "the ensemble and its composing models are unloaded")


def test_unload_without_dependents(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    unload(control, "sum", dependents=False)
    wait_unloaded(control, "sum")
    assert index(control, ready=True) == [("left", "1", "READY"), ("right", "1", "READY")]


def test_ensemble_whose_composing_model_fails(control, server):
    write_ensemble(server.repository)
    write(server.repository, "right", config(
        "right", "no_such_kind", [("INPUT0", *VECTOR), ("INPUT1", *VECTOR)], [("OUTPUT0", *VECTOR)]))
    with pytest.raises(grpc.RpcError, match=r"ensemble 'sum' depends on 'right' which has no loaded version\. Model "
                                            r"'right' loading failed with error: "):
        load(control, "sum")


def test_reload_of_a_composing_model_under_an_ensemble(control, server):
    write_ensemble(server.repository)
    load(control, "sum")
    write_add_sub(server.repository, "left", "INT32", [4], parameters={"execute_delay_ms": "1"})
    load(control, "left")
    wait_until(lambda: is_ready(control, "sum"), "'sum' is ready over the new 'left'")
    ask_ensemble(control)


def test_mode_none_refuses_load_and_unload(repository):
    write_identity(repository, "first")
    with Server(repository, mode="none") as server:
        stub = server.stub()
        infer(stub, "first")
        pattern = r"^explicit model load / unload is not allowed if polling is enabled$"
        with refused(UNAVAILABLE, pattern):
            load(stub, "first")
        with refused(UNAVAILABLE, pattern):
            unload(stub, "first")
        infer(stub, "first")
        assert index(stub) == [("first", "1", "READY")]


def test_load_model_flags(repository):
    for name in ("a", "b", "c"):
        write_identity(repository, name)
    with Server(repository, load=("a", "c")) as server:
        assert index(server.stub(), ready=True) == [("a", "1", "READY"), ("c", "1", "READY")]
        assert ("b", "", "") in index(server.stub())


def test_two_repositories(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_identity(tmp_path / "one", "alone")
    write_identity(tmp_path / "two", "other")
    write_identity(tmp_path / "one", "both")
    write_identity(tmp_path / "two", "both")
    with Server([tmp_path / "one", tmp_path / "two"], load=("alone", "other")) as server:
        stub = server.stub()
        infer(stub, "alone"), infer(stub, "other")
        with pytest.raises(grpc.RpcError, match="both"):
            load(stub, "both")
        reply = stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=LIMIT_S)
        (both,) = {(model.state, model.reason) for model in reply.models if model.name == "both"}
        assert both == ("UNAVAILABLE", "model appears in two or more repositories")


def test_a_repository_that_is_given_twice_counts_once(tmp_path):
    (tmp_path / "one").mkdir()
    write_identity(tmp_path / "one", "model")
    (tmp_path / "same").symlink_to(tmp_path / "one")
    with Server([tmp_path / "one", tmp_path / "same", f"{tmp_path}/one/"], mode="none") as server:
        assert index(server.stub()) == [("model", "1", "READY")]
        assert server.log().count("given twice") == 2


def test_files_and_hidden_directories_are_no_models(repository):
    write_identity(repository, "model")
    (repository / "notes.txt").write_text("not a model")
    (repository / ".hidden").mkdir()
    with Server(repository) as server:
        assert index(server.stub()) == [("model", "1", "READY")]


def test_tritonclient_raises_what_the_server_says(server):
    with pytest.raises(triton.InferenceServerException, match="failed to load 'missing'"):
        server.client().load_model("missing")
