"""The real model: all-MiniLM-L6-v2 from its Hugging Face directory, against recorded embeddings."""

import json
import subprocess

import numpy as np
import pytest
import tritonclient.grpc as triton

from harness.server import LIMIT_S as WAIT_S
from harness.server import ROOT, Server, binary
from harness.wire import INVALID, outputs_of, parameters_of, refused, request

LIMIT_S = 120

REPOSITORY = ROOT / "examples" / "repository"
MODEL = REPOSITORY / "minilm"

# Largest difference to the recorded embeddings, and of a row in a batch to the row alone.
TO_RECORDED, TO_ALONE = 1e-5, 1e-6


@pytest.fixture(scope="module")
def golden():
    """The recorded texts, token ids and embeddings."""
    with np.load(ROOT / "server" / "tests" / "golden" / "minilm.npz") as file:
        rows = np.split(file["input_ids"], np.cumsum(file["lengths"])[:-1])
        return {"texts": [str(text) for text in file["texts"]], "ids": rows, "embeddings": file["embeddings"]}


@pytest.fixture(scope="module")
def minilm():
    """A server with the model; scripts/fetch-models brings it."""
    assert (MODEL / "1" / "model.safetensors").is_file(), f"{MODEL} is missing: run scripts/fetch-models"
    with Server(REPOSITORY, load=("minilm",)) as server:
        yield server


@pytest.fixture(scope="module")
def embed(minilm):
    """A function from texts to embeddings, one batch."""
    client = minilm.client()

    def embed(texts):
        tensor = triton.InferInput("TEXT", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], np.object_))
        result = client.infer("minilm", [tensor], client_timeout=LIMIT_S).as_numpy("EMBEDDING")
        assert result.dtype == np.float32 and result.shape == (len(texts), 384)
        return result
    return embed


def difference(a, b):
    """Return the largest absolute difference; NaN counts as infinite."""
    gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return float(np.where(np.isnan(gap), np.inf, gap).max())


def test_all_texts_in_one_batch(embed, golden):
    assert difference(embed(golden["texts"]), golden["embeddings"]) <= TO_RECORDED


def test_each_text_alone(embed, golden):
    alone = np.concatenate([embed([text]) for text in golden["texts"]])
    assert difference(alone, golden["embeddings"]) <= TO_RECORDED
    assert difference(embed(golden["texts"]), alone) <= TO_ALONE


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_shuffled(embed, golden, seed):
    order = np.random.default_rng(seed).permutation(len(golden["texts"]))
    got = embed([golden["texts"][place] for place in order])
    assert difference(got, golden["embeddings"][order]) <= TO_RECORDED


def test_all_texts_as_requests_at_once(minilm, golden):
    stub = minilm.stub()
    calls = [stub.ModelInfer.future(request("minilm", [("TEXT", "BYTES", [1, 1], [text.encode()])]), timeout=LIMIT_S)
             for text in golden["texts"] * 4]
    got = [outputs_of(call.result())["EMBEDDING"][2] for call in calls]
    assert difference(got, np.concatenate([golden["embeddings"]] * 4)) <= TO_RECORDED


def test_embeddings_have_unit_length(embed, golden):
    assert difference(np.linalg.norm(embed(golden["texts"]), axis=1), np.ones(len(golden["texts"]))) <= 1e-5


def test_text_beyond_128_tokens_is_not_cut_there(embed):
    # The tokenizer's file says 128, sentence_bert_config.json says 256: the latter holds.
    words = [f"{word} {number}" for number in range(30) for word in ("river", "stone", "cloud")]
    short, long = " ".join(words[:62]), " ".join(words[:80])
    assert difference(embed([short]), embed([long])) > 1e-3


def test_text_beyond_256_tokens_is_cut_there(embed):
    words = ["river stone cloud"] * 100
    assert difference(embed([" ".join(words)]), embed([" ".join(words + ["something else entirely"] * 50)])) <= TO_ALONE


def test_long_text_in_a_batch_leaves_short_ones_alone(embed):
    short = "A short sentence."
    assert difference(embed([short, "word " * 400])[0], embed([short])[0]) <= TO_ALONE


def test_empty_text(embed, golden):
    place = golden["texts"].index("")
    assert difference(embed([""])[0], golden["embeddings"][place]) <= TO_RECORDED


def test_case_is_folded(embed):
    assert difference(embed(["THE CAT SITS OUTSIDE"]), embed(["the cat sits outside"])) <= TO_ALONE


def test_meaning(embed):
    cat, kitten, tax = embed(["A cat sleeps on the sofa.", "A kitten naps on the couch.", "The tax rate went up."])
    assert cat @ kitten > 0.5 > 0.2 > cat @ tax


def test_a_megabyte_of_text(embed):
    assert difference(embed(["word " * 200_000]), embed(["word " * 300])) <= TO_ALONE


def test_text_that_is_not_utf8_is_refused(minilm):
    with refused(INVALID, r"(?i)utf-?8"):
        minilm.stub().ModelInfer(request("minilm", [("TEXT", "BYTES", [1, 1], [b"\xff\xfe"])]), timeout=LIMIT_S)


def test_metadata(minilm):
    metadata = minilm.client().get_model_metadata("minilm")
    (text,), (embedding,) = metadata.inputs, metadata.outputs
    assert (text.name, text.datatype, list(text.shape)) == ("TEXT", "BYTES", [-1, 1])
    assert (embedding.name, embedding.datatype, list(embedding.shape)) == ("EMBEDDING", "FP32", [-1, 384])
    assert metadata.platform == "ensemble"


def tokenize(minilm, texts):
    """Ask the tokenizer alone; return its outputs by name."""
    message = request("minilm.tokenizer", [("TEXT", "BYTES", [len(texts), 1], [text.encode() for text in texts])])
    return outputs_of(minilm.stub().ModelInfer(message, timeout=LIMIT_S))


def test_tokenizer_alone(minilm, golden):
    outputs = tokenize(minilm, golden["texts"])
    longest = max(len(row) for row in golden["ids"])
    datatype, shape, ids = outputs["input_ids"]
    # Padded to the longest of the batch and no further.
    assert (datatype, shape) == ("INT64", [len(golden["texts"]), longest])
    mask = outputs["attention_mask"][2].reshape(shape)
    for row, expected, kept in zip(ids.reshape(shape), golden["ids"], mask):
        assert row[kept == 1].tolist() == expected.tolist()
        assert kept.tolist() == [1] * len(expected) + [0] * (longest - len(expected))


def test_tokenizer_pads_nothing(minilm):
    assert tokenize(minilm, ["one"])["input_ids"][1] == [1, 3]


def test_encoder_alone(minilm, golden):
    rows = golden["ids"][:6]
    width = max(len(row) for row in rows)
    ids = np.zeros((len(rows), width), np.int64)
    mask = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        ids[number, :len(row)], mask[number, :len(row)] = row, 1
    message = request("minilm.encoder", [
        ("input_ids", "INT64", ids.shape, ids), ("attention_mask", "INT64", mask.shape, mask)])
    _, shape, got = outputs_of(minilm.stub().ModelInfer(message, timeout=LIMIT_S))["EMBEDDING"]
    assert shape == [len(rows), 384]
    assert difference(got.reshape(shape), golden["embeddings"][:6]) <= TO_RECORDED


BAD_IDS = {
    "beyond the vocabulary": ([[101, 30522, 102]], [[1, 1, 1]]),
    "negative": ([[101, -1, 102]], [[1, 1, 1]]),
    "a mask of twos": ([[101, 7592, 102]], [[2, 2, 2]]),
    "longer than the model": ([[101] * 600], [[1] * 600]),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_encoder_refuses_bad_ids(minilm, case):
    ids, mask = (np.array(each, np.int64) for each in BAD_IDS[case])
    message = request("minilm.encoder", [
        ("input_ids", "INT64", ids.shape, ids), ("attention_mask", "INT64", mask.shape, mask)])
    stub = minilm.stub()
    with refused(INVALID, r"input_ids|attention_mask"):
        stub.ModelInfer(message, timeout=LIMIT_S)
    # One bad request does not harm the next.
    assert outputs_of(stub.ModelInfer(request("minilm", [("TEXT", "BYTES", [1, 1], [b"fine"])]), timeout=LIMIT_S))


def test_statistics_of_the_three_models(minilm, embed):
    client = minilm.client()

    def successes():
        return [client.get_inference_statistics(name).model_stats[0].inference_stats.success.count
                for name in ("minilm", "minilm.tokenizer", "minilm.encoder")]
    before = successes()
    embed(["one"])
    assert [new - old for new, old in zip(successes(), before)] == [1, 1, 1]


def test_the_timeline_tells_the_time_of_the_tokenizer(minilm):
    asked = request("minilm", [("TEXT", "BYTES", [1, 1], [b"a text"])], parameters={"alcedo_timeline": True})
    told = json.loads(parameters_of(minilm.stub().ModelInfer(asked, timeout=LIMIT_S))["alcedo_timeline"])
    tokenizer, encoder = told["steps"]
    assert (tokenizer["model"], encoder["model"]) == ("minilm.tokenizer", "minilm.encoder")
    # What is told apart: reading texts, encoding them, and making tensors of the tokens.
    order = [tokenizer[key] for key in ("started_us", "inputs_us", "executed_us", "outputs_us")]
    assert order == sorted(order) and order[2] > order[1], told
    assert tokenizer["outputs_us"] <= encoder["started_us"], told


def test_the_model_directory_itself_is_a_repository(golden):
    with Server(MODEL / "1", mode=None) as server:
        (name,) = {model.name for model in server.client().get_model_repository_index().models
                   if "." not in model.name}
        tensor = triton.InferInput("TEXT", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[golden["texts"][0].encode()]], np.object_))
        got = server.client().infer(name, [tensor], client_timeout=LIMIT_S).as_numpy("EMBEDDING")
        assert difference(got[0], golden["embeddings"][0]) <= TO_RECORDED


@pytest.mark.parametrize("directory", [MODEL, MODEL / "1"], ids=["model", "version"])
def test_config_command_prints_the_model_config(directory):
    done = subprocess.run([str(binary()), "config", str(directory)], capture_output=True, text=True, timeout=WAIT_S,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "TEXT" in done.stdout and "EMBEDDING" in done.stdout and "384" in done.stdout
    assert "ensemble" in done.stdout


def test_served_config_of_the_encoder(minilm):
    config = minilm.client().get_model_config("minilm.encoder", as_json=True)["config"]
    assert config["backend"] == "candle"
    assert [each["name"] for each in config["input"]][:2] == ["input_ids", "attention_mask"]
    json.dumps(config)
