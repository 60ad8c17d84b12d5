"""Fixtures of the conformance suite, and the list of cases that it prints at its end."""

import os
import pathlib

import pytest

from harness.models import (
    DATATYPES, config, ensemble, write, write_add_sub, write_identity, write_producer, write_repeat, write_sleep,
    write_square)
from harness.server import Server

# Needs a build with CUDA, and a driver: NVIDIA's or the emulated one.
collect_ignore = [] if os.environ.get("ALCEDO_CUDA_BIN") else ["test_cuda_shared_memory.py"]


def pytest_terminal_summary(terminalreporter):
    """List every case with its outcome."""
    cases = []
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if outcome == "error" or report.when == "call":
                cases.append((report.nodeid, outcome))
    terminalreporter.section("conformance cases")
    for number, (case, outcome) in enumerate(sorted(cases), 1):
        terminalreporter.write_line(f"{number:4} {outcome:6} {case}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Put the end of each server's log below a failure."""
    report = (yield).get_result()
    if report.when == "call" and report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, Server) and not value._log.closed:
                state = value.process.poll()
                running = "running" if state is None else f"ended with exit code {state}"
                report.sections.append((f"server {value.pid}, {running}", value.log()[-6000:]))


def write_zoo(repository):
    """Write the models that most tests share."""
    for datatype in DATATYPES:
        write_identity(repository, f"identity_{datatype.lower()}", datatype)
    write_identity(repository, "batch_fp32", "FP32", [-1], 8, extra="dynamic_batching { }")
    write_identity(repository, "batch_bytes", "BYTES", [-1], 8)
    for rank in range(1, 9):
        write_identity(repository, f"rank_{rank}", "INT32", [-1] * rank)
    write_add_sub(repository, "add_sub", "INT32", [16])
    write_add_sub(repository, "add_sub_batch", "INT32", [16], 8)
    write_add_sub(repository, "add_sub_fp32", "FP32", [16], 8)
    write_add_sub(repository, "add_sub_any", "FP32", [-1, 2], 8)
    write_add_sub(repository, "sub_add", "INT32", [16], kind="sub_add")
    write_add_sub(repository, "add_sub_bytes", "BYTES", [4])
    write_add_sub(repository, "add_sub_omit", "INT32", [4], parameters={"omit_output": "OUTPUT1"})
    write(repository, "two_inputs", config(
        "two_inputs", "identity", [("A", "FP32", [2]), ("B", "INT32", [2], "optional: true")],
        [("X", "FP32", [2]), ("Y", "INT32", [2])], 4))
    write(repository, "two_inputs_omit", config(
        "two_inputs_omit", "identity", [("A", "FP32", [2]), ("B", "INT32", [2], "optional: true")],
        [("X", "FP32", [2]), ("Y", "INT32", [2])], 4, {"missing": "omit"}))
    write_shapes(repository)
    write_classifiers(repository)
    write_versions(repository)
    write(repository, "parameters", config(
        "parameters", "parameter_echo", [("INPUT0", "FP32", [1])], [("key", "BYTES", [-1]), ("value", "BYTES", [-1])]))
    write_repeat(repository, "repeat")
    write_repeat(repository, "repeat_unary", decoupled=False)
    write_square(repository, "square")
    write_square(repository, "square_some_fail", {"empty_count": "1", "fail_count": "2"})
    write_square(repository, "square_slow", {"infer_delay_ns": "2000000"})
    write_producer(repository, "producer", {"value": "2.5", "delay_ms": "1"})
    write(repository, "mock_llm", config(
        "mock_llm", "mock_llm",
        [("PROMPT", "BYTES", [1, 1]), ("STREAM", "BOOL", [1, 1]), ("input_ids", "INT32", [1, -1], "optional: true")],
        [("TEXT", "BYTES", [-1])], extra="model_transaction_policy { decoupled: true }"))
    write_sleep(repository, "sleep")
    write_sleep(repository, "sleep_many", instances=4)
    write_ensembles(repository)


def write_shapes(repository):
    """Write models that reshape."""
    write(repository, "scalar", config(
        "scalar", "identity", [("INPUT0", "FP32", [1], "reshape: { shape: [ ] }")],
        [("OUTPUT0", "FP32", [1], "reshape: { shape: [ ] }")], 8))
    write(repository, "reshape_flat", config(
        "reshape_flat", "identity", [("INPUT0", "INT32", [2, 8], "reshape: { shape: [ 16 ] }")],
        [("OUTPUT0", "INT32", [4, 4], "reshape: { shape: [ 16 ] }")]))
    write(repository, "reshape_wild", config(
        "reshape_wild", "identity", [("INPUT0", "INT32", [4, -1, 2], "reshape: { shape: [ 2, 2, -1, 2 ] }")],
        [("OUTPUT0", "INT32", [2, 2, -1, 2])], 4))


def write_classifiers(repository):
    """Write models whose output can be asked for as classes."""
    labels = {"labels.txt": "zero\none\ntwo\nthree\n"}
    write_identity(repository, "classes_batch", "FP32", [4], 8, files=labels,
                   output_extra='label_filename: "labels.txt"')
    write_identity(repository, "classes_flat", "FP32", [-1], 0, files=labels,
                   output_extra='label_filename: "labels.txt"')
    write_identity(repository, "classes_plain", "INT32", [4], 8)


def write_versions(repository):
    """Write models of several versions; each version of them is told apart by what it does."""
    def text(name, policy):
        return config(name, "add_sub", [("INPUT0", "INT32", [1]), ("INPUT1", "INT32", [1])],
                      [("OUTPUT0", "INT32", [1]), ("OUTPUT1", "INT32", [1])],
                      parameters={"model.2": "sub_add"}, extra=policy)
    write(repository, "latest", text("latest", ""), (1, 2, 3))
    write(repository, "latest_2", text("latest_2", "version_policy { latest { num_versions: 2 } }"), (1, 2, 3))
    write(repository, "all_versions", text("all_versions", "version_policy { all { } }"), (1, 2, 10, "01", "next"))
    write(repository, "specific", text("specific", "version_policy { specific { versions: [ 1, 3, 9 ] } }"), (1, 2, 3))


def write_ensembles(repository):
    """Write the ensembles that are called by several tests."""
    vector = [("A", "INT32", [16]), ("B", "INT32", [16])]
    write(repository, "chain", ensemble(
        "chain", vector, [("DOUBLE_A", "INT32", [16]), ("DOUBLE_B", "INT32", [16])],
        [("add_sub_batch", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "sum", "OUTPUT1": "difference"}),
         ("add_sub_batch", {"INPUT0": "sum", "INPUT1": "difference"},
          {"OUTPUT0": "DOUBLE_A", "OUTPUT1": "DOUBLE_B"})], 8))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    """A server with many small models; tests that share it load and unload nothing."""
    repository = tmp_path_factory.mktemp("zoo")
    write_zoo(repository)
    with Server(repository) as server:
        yield server


@pytest.fixture(scope="session")
def stub(zoo):
    """The raw stub of the shared server."""
    return zoo.stub()


@pytest.fixture(scope="session")
def client(zoo):
    """A tritonclient client of the shared server."""
    return zoo.client()


@pytest.fixture
def repository(tmp_path):
    """An empty model repository of one test."""
    path = pathlib.Path(tmp_path) / "repository"
    path.mkdir()
    return path
