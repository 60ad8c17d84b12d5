"""Hugging Face directories without a configuration: every architecture, from text to numbers, over the wire."""

import json
import shutil

import numpy as np
import pytest
import tritonclient.grpc as triton

from harness.models import write
from harness.server import ROOT, Server
from harness.wire import outputs_of, request

LIMIT_S = 60

FIXTURES = ROOT / "models" / "tests" / "fixtures"
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.json"))

TOLERANCE = 1e-5


def expected_of(name):
    """Return the recorded answers of the original framework."""
    return json.loads((FIXTURES / name / "expected.json").read_text())


def copy(name, target):
    """Copy a fixture without its recorded answers."""
    shutil.copytree(FIXTURES / name, target, ignore=shutil.ignore_patterns("expected.json"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A server with every fixture as version 1 of a model."""
    repository = tmp_path_factory.mktemp("tiny")
    for name in NAMES:
        copy(name, repository / name / "1")
    with Server(repository) as server:
        yield server


def ask(server, name, texts, output, **more):
    """Send texts as one batch and return one output."""
    tensor = triton.InferInput("TEXT", [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], np.object_))
    wanted = [triton.InferRequestedOutput(output, **more)]
    return server.client().infer(name, [tensor], outputs=wanted, client_timeout=LIMIT_S).as_numpy(output)


def test_there_are_fixtures():
    assert {"bert", "roberta", "distilbert", "bert-classifier"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_answers_equal_those_of_the_original_framework(tiny, name):
    expected = expected_of(name)
    output, key = ("LOGITS", "logits") if "logits" in expected else ("EMBEDDING", "embedding")
    recorded = np.array(expected[key])
    together = ask(tiny, name, expected["texts"], output)
    assert together.shape == recorded.shape
    assert np.abs(together - recorded).max() <= TOLERANCE
    alone = np.concatenate([ask(tiny, name, [text], output) for text in expected["texts"]])
    assert np.abs(alone - recorded).max() <= TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_token_ids_equal_those_of_the_original_tokenizer(tiny, name):
    expected = expected_of(name)
    texts = [text.encode() for text in expected["texts"]]
    message = request(f"{name}.tokenizer", [("TEXT", "BYTES", [len(texts), 1], texts)])
    outputs = outputs_of(tiny.stub().ModelInfer(message, timeout=LIMIT_S))
    mask = np.array(expected["attention_mask"])
    _, shape, ids = outputs["input_ids"]
    assert np.array_equal(outputs["attention_mask"][2].reshape(shape), mask)
    assert np.array_equal(ids.reshape(shape) * mask, np.array(expected["input_ids"]) * mask)


def test_labels_come_from_the_model_files(tiny):
    texts = expected_of("bert-classifier")["texts"][:2]
    logits = np.array(expected_of("bert-classifier")["logits"][:2])
    best = ask(tiny, "bert-classifier", texts, "LOGITS", class_count=1)
    for row, (answer,) in zip(logits, best):
        value, index, label = answer.decode().split(":")
        assert float(value) == pytest.approx(row.max(), abs=2 * TOLERANCE)
        assert (int(index), label) == (row.argmax(), "class " + "abc"[row.argmax()])


def test_a_configuration_is_completed_from_the_files(repository):
    write(repository, "encoder", 'backend: "candle"\n', versions=())
    copy("bert", repository / "encoder" / "1")
    with Server(repository) as server:
        config = server.client().get_model_config("encoder").config
        assert [tensor.name for tensor in config.input][:2] == ["input_ids", "attention_mask"]
        assert [(tensor.name, list(tensor.dims)) for tensor in config.output] == [("EMBEDDING", [24])]
        assert config.max_batch_size > 0
        expected = expected_of("bert")
        ids = np.array(expected["input_ids"])
        message = request("encoder", [("input_ids", "INT64", ids.shape, ids),
                                      ("attention_mask", "INT64", ids.shape, np.array(expected["attention_mask"]))])
        _, shape, got = outputs_of(server.stub().ModelInfer(message, timeout=LIMIT_S))["EMBEDDING"]
        assert np.abs(got.reshape(shape) - np.array(expected["embedding"])).max() <= TOLERANCE


def test_two_instances_answer_alike(repository):
    write(repository, "encoder", 'backend: "candle"\ninstance_group [ { count: 2 kind: KIND_CPU } ]\n', versions=())
    copy("bert", repository / "encoder" / "1")
    expected = expected_of("bert")
    ids, mask = np.array(expected["input_ids"]), np.array(expected["attention_mask"])
    with Server(repository) as server:
        stub = server.stub()
        calls = [(row, stub.ModelInfer.future(
            request("encoder", [("input_ids", "INT64", [1, ids.shape[1]], ids[row]),
                                ("attention_mask", "INT64", [1, ids.shape[1]], mask[row])]), timeout=LIMIT_S))
            for row in list(range(len(ids))) * 20]
        for row, call in calls:
            got = outputs_of(call.result())["EMBEDDING"][2]
            assert np.abs(got - np.array(expected["embedding"][row])).max() <= TOLERANCE


DAMAGES = {
    "weights cut off": lambda directory: (directory / "model.safetensors").write_bytes(
        (directory / "model.safetensors").read_bytes()[:1000]),
    "weights of another model": lambda directory: shutil.copy(
        FIXTURES / "distilbert" / "model.safetensors", directory / "model.safetensors"),
    "configuration that is no JSON": lambda directory: (directory / "config.json").write_text("{"),
    "unknown architecture": lambda directory: (directory / "config.json").write_text(json.dumps(
        {**json.loads((directory / "config.json").read_text()), "model_type": "mamba", "architectures": ["Mamba"]})),
    "tokenizer that is none": lambda directory: (directory / "tokenizer.json").write_text("{}"),
    "unknown pooling module": lambda directory: (directory / "modules.json").write_text(json.dumps(
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Mystery"}])),
}


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_directory_that_lacks_files_is_no_empty_repository(tmp_path, missing):
    copy("distilbert-classifier", tmp_path / "m")
    (tmp_path / "m" / missing).unlink()
    with pytest.raises(AssertionError, match=r"ended with exit code 1:[^$]*m: it holds files of a Hugging Face model"):
        Server(tmp_path / "m", mode="none")


def test_a_directory_outside_of_a_version_says_where_it_belongs(repository):
    copy("bert", repository / "m")
    with Server(repository, load=()) as server:
        with pytest.raises(triton.InferenceServerException, match="move them into '1'"):
            server.client().load_model("m")


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_directories_fail_to_load_and_say_why(repository, case):
    copy("bert", repository / "damaged" / "1")
    copy("bert", repository / "whole" / "1")
    DAMAGES[case](repository / "damaged" / "1")
    with Server(repository, load=("whole",)) as server:
        client = server.client()
        with pytest.raises(triton.InferenceServerException) as caught:
            client.load_model("damaged")
        assert "damaged" in caught.value.message() and "model '1'" not in caught.value.message()
        assert len(caught.value.message()) > len("load failed for model 'damaged'") + 20
        assert client.is_model_ready("whole") and not client.is_model_ready("damaged")
        assert ask(server, "whole", ["the cat"], "EMBEDDING").shape == (1, 24)
