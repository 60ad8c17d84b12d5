"""The commands of the binary, run as a user runs them."""

import json
import subprocess

import numpy as np
import pytest
from tritonclient.grpc import model_config_pb2

from harness.models import config, write, write_identity, write_sleep
from harness.server import LIMIT_S, ROOT, Server, binary, closed_port, wait_until
from harness.wire import pb, request

BUILTIN = ROOT / "examples" / "builtin"


def alcedo(*arguments, **more):
    """Run the binary and return what it did."""
    return subprocess.run([str(binary()), *map(str, arguments)], capture_output=True, text=True, timeout=LIMIT_S,
                          stdin=subprocess.DEVNULL, **more)


def succeed(*arguments):
    """Run the binary, expect success, return what it printed."""
    done = alcedo(*arguments)
    assert done.returncode == 0, f"{arguments}: exit code {done.returncode}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def builtin():
    """A server over the committed example repository of builtin models."""
    with Server(BUILTIN) as server:
        yield server


def test_help_names_the_commands():
    text = succeed("--help")
    assert all(command in text for command in ("serve", "infer", "models", "config", "demo"))
    for command in ("serve", "infer", "models", "config", "demo"):
        assert "Usage: alcedo " + command in succeed(command, "--help")


def test_version():
    assert succeed("--version").startswith("alcedo ")


@pytest.mark.parametrize("flags", [
    ["serve"], ["serve", "--model-repository", "x", "--grpc-prot", "1"], ["nothing"], [],
    ["serve", "--model-repository", "x", "--model-control-mode", "poll"],
    ["serve", "--model-repository", "x", "--load-model", "m"],
    ["serve", "--model-repository", "x", "--log-level", "loud"]], ids=" ".join)
def test_command_line_that_is_not_understood(flags):
    done = alcedo(*flags)
    assert done.returncode == 2
    assert done.stderr


def test_example_repository_serves(builtin):
    client = builtin.client()
    names = {model.name for model in client.get_model_repository_index().models}
    assert {"identity_fp32", "identity_bytes", "add_sub_int32", "repeat", "sum_of_differences"} == names
    assert all(client.is_model_ready(name) for name in names)


def test_infer_text(builtin):
    text = succeed("infer", "--url", builtin.url, "identity_bytes", "one text", "another")
    assert "one text" in text and "another" in text and "OUTPUT0" in text


def test_infer_json(builtin):
    reply = json.loads(succeed("infer", "--url", builtin.url, "identity_fp32", "-i", "INPUT0=[1.5, 2]", "--id", "mine",
                               "--format", "json"))
    assert (reply["model_name"], reply["id"]) == ("identity_fp32", "mine")
    (output,) = reply["outputs"]
    assert (output["name"], output["datatype"], output["shape"], output["data"]) == ("OUTPUT0", "FP32", [1, 2], [1.5, 2.0])


def test_infer_npy(builtin, tmp_path):
    a, b = np.arange(32, dtype=np.int32).reshape(2, 16), np.full((2, 16), 5, np.int32)
    np.save(tmp_path / "a.npy", a), np.save(tmp_path / "b.npy", b)
    succeed("infer", "--url", builtin.url, "add_sub_int32", "-i", f"INPUT0=@{tmp_path / 'a.npy'}",
            "-i", f"INPUT1=@{tmp_path / 'b.npy'}", "--format", f"npy:{tmp_path / 'out'}")
    saved = {path.stem: np.load(path) for path in (tmp_path / "out").iterdir()}
    (total,) = [array for name, array in saved.items() if "OUTPUT0" in name]
    assert np.array_equal(total, a + b)


def test_infer_of_a_decoupled_model(builtin):
    lines = succeed("infer", "--url", builtin.url, "repeat", "-i", "IN=[7, 8]", "-i", "DELAY=[0, 0]", "-i", "WAIT=[0]",
                    "--format", "json").splitlines()
    replies = [json.loads(line) for line in lines]
    values = [output["data"] for reply in replies for output in reply["outputs"] if output["name"] == "OUT"]
    assert values == [[7], [8]]


def test_infer_failures(builtin):
    with closed_port() as port:
        for arguments, pattern in [
                (["--url", f"127.0.0.1:{port}", "identity_bytes", "x"], "unable to connect"),
                (["--url", builtin.url, "nobody", "x"], "'nobody' is not found"),
                (["--url", builtin.url, "identity_fp32", "-i", "INPUT9=[1]"], "INPUT9"),
                (["--url", builtin.url, "identity_fp32", "-i", "INPUT0=@/no/such/file.npy"], "/no/such/file.npy")]:
            done = alcedo("infer", *arguments)
            assert done.returncode in (1, 2) and pattern in done.stderr, done.stderr


def test_models(builtin):
    text = succeed("models", "--url", builtin.url)
    assert all(name in text for name in ("identity_fp32", "sum_of_differences", "READY"))
    listed = {model["name"]: model for model in json.loads(succeed("models", "--url", builtin.url, "--json"))}
    assert listed["identity_fp32"]["state"] == "READY"
    assert listed["identity_fp32"]["inputs"][0]["datatype"] == "FP32"


def test_models_load_and_unload(repository):
    write_identity(repository, "first")
    with Server(repository, load=()) as server:
        succeed("models", "--url", server.url, "load", "first")
        client = server.client()
        assert client.is_model_ready("first")
        succeed("models", "--url", server.url, "unload", "first")
        done = alcedo("models", "--url", server.url, "load", "missing")
        assert done.returncode == 1 and "failed to load 'missing'" in done.stderr


def test_config_prints_what_can_be_read_again():
    text = succeed("config", BUILTIN / "add_sub_int32")
    assert 'name: "add_sub_int32"' in text
    printed = json.loads(succeed("config", BUILTIN / "add_sub_int32", "--json"))
    assert printed["max_batch_size"] == 8 and len(printed["instance_group"]) == 1
    known = model_config_pb2.ModelConfig.DESCRIPTOR.fields_by_name
    assert set(printed) <= set(known)


@pytest.mark.parametrize("text, pattern", [
    ("max_batchsize: 3\n", r"config.pbtxt:1:1"), ('backend: "unknown"\n', "unknown")])
def test_config_of_a_faulty_directory(repository, text, pattern):
    directory = write(repository, "m", text)
    done = alcedo("config", directory)
    assert done.returncode == 1 and pattern in done.stderr


def test_config_of_a_link_bears_the_name_of_the_link(repository, tmp_path):
    text = config("linked", "identity", [("A", "FP32", [1])], [("B", "FP32", [1])])
    write(tmp_path, "real", text)
    (repository / "linked").symlink_to(tmp_path / "real")
    assert 'name: "linked"' in succeed("config", repository / "linked")
    assert 'name: "linked"' in alcedo("config", ".", cwd=write(tmp_path / "other", "linked", text)).stdout


def test_config_of_what_is_no_model(tmp_path):
    for directory in (tmp_path, tmp_path / "missing"):
        done = alcedo("config", directory)
        assert done.returncode == 1 and str(directory) in done.stderr


def test_serve_with_a_taken_port(builtin, repository):
    write_identity(repository, "first")
    done = alcedo("serve", "--model-repository", repository, "--grpc-port", builtin.grpc_port, "--http-port", "0",
                  "--metrics-port", "0")
    assert done.returncode == 1 and str(builtin.grpc_port) in done.stderr and "--grpc-port" in done.stderr


def test_serve_without_a_repository(tmp_path):
    ports = [flag for name in ("grpc", "http", "metrics") for flag in (f"--{name}-port", "0")]
    done = alcedo("serve", "--model-repository", tmp_path / "missing", *ports)
    assert done.returncode == 1 and "missing" in done.stderr


def broken(repository):
    """Write a repository of a good and a broken model."""
    write_identity(repository, "good")
    write(repository, "broken", config(
        "broken", "no_such_kind", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])]))


def test_start_up_model_that_fails_ends_the_server(repository):
    broken(repository)
    with Server(repository, ready=False) as server:
        assert server.wait_exit() == 1
        assert "broken" in server.log() and "no_such_kind" in server.log()


def test_start_up_model_that_may_fail(repository):
    broken(repository)
    with Server(repository, "--exit-on-error=false", "--strict-readiness=false", "--drain-delay-secs", "0") as server:
        assert server.client().is_model_ready("good")
        assert not server.client().is_model_ready("broken")
        server.terminate()
        assert server.wait_exit() == 0


def test_log_has_a_line_for_each_load_and_none_for_a_request(repository):
    write_identity(repository, "first")
    with Server(repository) as server:
        stub = server.stub()
        assert any("first" in line for line in server.log().splitlines())
        # The last line of the start is written a moment after the server has become ready.
        wait_until(lambda: " ready seconds=" in server.log(), "the log says that the server is ready")
        before = server.log()
        for _ in range(20):
            stub.ModelInfer(request("first", [("INPUT0", "FP32", [1], [1.0])]), timeout=LIMIT_S)
        assert server.log() == before
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="first"), timeout=LIMIT_S)
        # The unload goes on after its reply.
        wait_until(lambda: any("first" in line for line in server.log()[len(before):].splitlines()),
                   "the log has a line for the unload")


def test_json_log(repository):
    write_identity(repository, "first")
    with Server(repository, "--log-format", "json") as server:
        lines = [json.loads(line) for line in server.log().splitlines()]
        assert lines and all({"timestamp", "level"} <= set(line) for line in lines)
        assert any("first" in json.dumps(line) for line in lines)


def test_message_limit(repository):
    write_identity(repository, "first")
    with Server(repository, "--grpc-max-message-bytes", "100000") as server:
        stub = server.stub()
        stub.ModelInfer(request("first", [("INPUT0", "FP32", [1000], np.zeros(1000, np.float32))]), timeout=LIMIT_S)
        with pytest.raises(Exception, match="(?i)limit|size|large|exceed"):
            stub.ModelInfer(request("first", [("INPUT0", "FP32", [50_000], np.zeros(50_000, np.float32))]),
                            timeout=LIMIT_S)
        stub.ModelInfer(request("first", [("INPUT0", "FP32", [1], [1.0])]), timeout=LIMIT_S)


def test_second_signal_cuts_the_shutdown_short(repository):
    write_sleep(repository, "sleep")
    with Server(repository, "--drain-delay-secs", "50") as server:
        server.terminate()
        watch = server.stub()
        # The first signal has been taken once the server is no longer ready.
        while watch.ServerReady(pb.ServerReadyRequest(), timeout=LIMIT_S).ready:
            pass
        server.terminate()
        assert server.wait_exit() == 130


def test_demo():
    text = succeed("demo", "--once", "--model-repository", ROOT / "examples" / "repository", "--seconds", "0.3")
    assert "384 values" in text and "cosine similarity" in text
    assert "requests/s" in text and "p99" in text


def test_demo_without_the_model(tmp_path):
    done = alcedo("demo", "--once", "--model-repository", tmp_path)
    assert done.returncode == 1 and "scripts/fetch-models" in done.stderr
