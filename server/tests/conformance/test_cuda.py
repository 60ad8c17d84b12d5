"""Models on a GPU through the real client: answers, lanes, loads and unloads, memory that is short, a device that is lost.

Collected only where $ALCEDO_CUDA_BIN names a build with CUDA. $ALCEDO_EMULATOR_DIR is the folder of the emulated device
(scripts/build-emulator); without it the server uses NVIDIA's driver, and cases that need faults on demand are left out.
"""

import os
import shutil

import numpy as np
import pytest
import tritonclient.grpc as triton

from harness.metrics import scrape, value_of
from harness.models import write, write_identity
from harness.server import ROOT, Server, wait_until
from harness.state import send, total
from harness.wire import INVALID, NOT_FOUND, UNAVAILABLE, grpc, outputs_of, refused, request

EMULATOR = os.environ.get("ALCEDO_EMULATOR_DIR")
PROGRAM = os.environ.get("ALCEDO_CUDA_BIN")
MINILM = ROOT / "examples" / "repository" / "minilm"
TINY = ROOT / "models" / "tests" / "fixtures" / "bert"
GPU = "instance_group [ { count: 1, kind: KIND_GPU, gpus: [ 0 ] } ]"

# The emulated device computes some hundred thousand times slower than a GPU.
LIMIT_S = 300
# Largest difference of a component of an embedding of unit length to the recorded one, by the type of weights and activations.
TO_RECORDED = {"f32": 5e-6, "f16": 6e-4, "bf16": 5e-3}
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

faults = pytest.mark.skipif(EMULATOR is None, reason="a real device has no faults on demand")


def start(repository, *flags, env=None, **more):
    """A server on the device."""
    env = {**({"LD_LIBRARY_PATH": os.path.abspath(EMULATOR)} if EMULATOR else {}), **(env or {})}
    return Server(repository, *flags, env=env, program=PROGRAM, **more)


def write_encoder(repository, name, source, dtype, extra=GPU, **parameters):
    """Write an encoder that takes tokens, with the files of another model."""
    lines = [f'name: "{name}"', 'backend: "candle"', "max_batch_size: 16"]
    lines += [f'input {{ name: "{each}" data_type: TYPE_INT64 dims: [ -1 ] allow_ragged_batch: true }}'
              for each in ("input_ids", "attention_mask")]
    lines.append('output { name: "EMBEDDING" data_type: TYPE_FP32 dims: [ -1 ] }')
    for key, value in {"dtype": dtype, **parameters}.items():
        lines.append(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}')
    lines += ["dynamic_batching { }", extra]
    directory = write(repository, name, "\n".join(lines) + "\n", versions=())
    shutil.copytree(source, directory / "1")
    return directory


def ask(model, ids):
    """Return a request for the embedding of one text."""
    shape = [1, len(ids)]
    return request(model, [("input_ids", "INT64", shape, list(ids)), ("attention_mask", "INT64", shape, [1] * len(ids))])


def embedding(reply):
    return outputs_of(reply)["EMBEDDING"][2]


def difference(a, b):
    """Return the largest absolute difference; NaN counts as infinite."""
    gap = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    return float(np.where(np.isnan(gap), np.inf, gap).max())


@pytest.fixture(scope="module")
def golden():
    """The recorded texts, token ids and embeddings of MiniLM."""
    with np.load(ROOT / "server" / "tests" / "golden" / "minilm.npz") as file:
        rows = np.split(file["input_ids"], np.cumsum(file["lengths"])[:-1])
        return {"texts": [str(text) for text in file["texts"]], "ids": [row.tolist() for row in rows],
                "embeddings": file["embeddings"]}


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """A server with MiniLM in every precision, two lanes each."""
    repository = tmp_path_factory.mktemp("minilm")
    for dtype in TO_RECORDED:
        write_encoder(repository, dtype, MINILM / "1", dtype, "instance_group [ { count: 2, kind: KIND_GPU } ]",
                      max_batch_tokens=2048)
    with start(repository) as server:
        yield server


@pytest.mark.parametrize("dtype", TO_RECORDED)
def test_minilm_from_many_clients(minilm, golden, dtype):
    stub = minilm.stub()
    calls = send(stub, *[ask(dtype, ids) for ids in golden["ids"]], timeout=LIMIT_S)
    got = [embedding(call.result()) for call in calls]
    gap = difference(got, golden["embeddings"])
    print(f"{dtype}: largest difference {gap:.2e}")
    assert gap <= TO_RECORDED[dtype]
    samples = scrape(minilm)
    assert total(samples, "nv_inference_exec_count", dtype) < total(samples, "nv_inference_count", dtype), "batches formed"


@pytest.mark.parametrize("dtype", TO_RECORDED)
def test_a_text_alone_and_in_a_batch(minilm, golden, dtype):
    stub = minilm.stub()
    place = max(range(len(golden["ids"])), key=lambda place: len(golden["ids"][place]))
    alone = embedding(stub.ModelInfer(ask(dtype, golden["ids"][place]), timeout=LIMIT_S))
    assert difference(alone, golden["embeddings"][place]) <= TO_RECORDED[dtype]


def test_memory_is_on_the_page_of_metrics(minilm):
    samples = scrape(minilm)
    taken = {dtype: value_of(samples, "alcedo_gpu_memory_bytes", model=dtype, version=1, kind="weights") for dtype in TO_RECORDED}
    # Weights are there once for both lanes; tables stay as they are stored, and heads f32.
    assert taken["f16"] == taken["bf16"] and taken["f32"] > 1.2 * taken["f16"] > 0, taken
    for kind in ("arena", "workspace", "pinned"):
        assert value_of(samples, "alcedo_gpu_memory_bytes", model="f16", version=1, kind=kind) > 0
    log = minilm.log()
    assert log.count("an encoder is loaded") == 3 and "cuda:0" in log


def test_minilm_as_it_comes(golden):
    """Texts through tokenizer and encoder, without any configuration, with the real client."""
    with start(MINILM.parent, "--device=cuda:0", load=("minilm",)) as server:
        client = server.client()
        texts = golden["texts"][:12]
        tensor = triton.InferInput("TEXT", [len(texts), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], np.object_))
        got = client.infer("minilm", [tensor], client_timeout=LIMIT_S).as_numpy("EMBEDDING")
        assert difference(got, golden["embeddings"][:12]) <= TO_RECORDED["f16"]
        assert client.is_server_ready() and client.is_model_ready("minilm")


@pytest.fixture
def tiny(repository):
    """A repository with a small encoder on the GPU, and its recorded texts."""
    write_encoder(repository, "tiny", TINY, "f32")
    return repository


IDS = [[2, *range(10, 10 + length), 3] for length in (3, 9, 1, 15)]


def answers(stub, model, count):
    """Send so many requests at once; return their embeddings or errors."""
    calls = send(stub, *[ask(model, IDS[index % len(IDS)]) for index in range(count)], timeout=LIMIT_S)
    return [call.exception() or embedding(call.result()) for call in calls]


def test_unload_and_load_under_load(tiny):
    with start(tiny) as server:
        stub, client = server.stub(), server.client()
        want = answers(stub, "tiny", len(IDS))
        for _ in range(4):
            calls = send(stub, *[ask("tiny", IDS[index % len(IDS)]) for index in range(40)], timeout=LIMIT_S)
            client.unload_model("tiny")
            client.load_model("tiny")
            for index, call in enumerate(calls):
                error = call.exception()
                if error is None:
                    assert difference(embedding(call.result()), want[index % len(IDS)]) <= 1e-5
                else:
                    assert error.code() in (NOT_FOUND, UNAVAILABLE), error
            assert difference(answers(stub, "tiny", len(IDS)), want) <= 1e-5
        client.unload_model("tiny")
        wait_until(lambda: total(scrape(server), "alcedo_gpu_memory_bytes", "tiny") == 0, "the memory is given back")


@faults
def test_a_load_without_room_says_how_much_is_missing(tiny):
    with start(tiny, load=(), env={"ALCEDO_EMULATOR_MEMORY": "20000000"}) as server:
        # The workspace alone is more than there is. Where activations are what is too much, the largest batch that would fit
        # is told: see the planner's own tests.
        pattern = (r"model 'tiny' needs 32\.2 MiB \(weights .*, workspace 32\.0 MiB, activations .* for 320 tokens\); "
                   r"19\.\d MiB are free; not even")
        with refused(INVALID, pattern):
            server.client().load_model("tiny")
        assert server.client().is_server_live() and total(scrape(server), "alcedo_gpu_memory_bytes", "tiny") == 0


class Faults:
    """Failures of a running server's device, asked for by a file that the emulated device looks for."""

    def __init__(self, folder):
        self._path = folder / "faults"
        self.env = {"ALCEDO_EMULATOR_FAIL": f"file:{self._path}"}

    def cause(self, what):
        # Whole at once: the device may look for it at any time.
        written = self._path.with_suffix(".new")
        written.write_text(what)
        written.rename(self._path)

    def cause_allocations(self, count):
        """Let so many allocations fail from the next one on. One that fails is tried a second time."""
        self.cause(",".join(["none", *[f"alloc:{number}" for number in range(1, count + 1)]]))


def weights(server, model):
    return value_of(scrape(server), "alcedo_gpu_memory_bytes", model=model, version=1, kind="weights") or 0


def splits(server):
    return total(scrape(server), "alcedo_batch_splits_total", "one")


@faults
def test_batches_without_memory_are_cut_and_run(repository, tmp_path):
    # Idle models make room for others, so that a batch may need memory: for the weights of its model, to bring them back.
    for name in ("one", "other"):
        directory = write_encoder(repository, name, TINY, "f32", batcher="compat")
        text = (directory / "config.pbtxt").read_text()
        # Eight requests are a batch, and fewer are none for as long as the test goes on.
        text = text.replace("max_batch_size: 16", "max_batch_size: 8")
        text = text.replace("dynamic_batching { }", "dynamic_batching { max_queue_delay_microseconds: 600000000 }")
        (directory / "config.pbtxt").write_text(text)
    faults = Faults(tmp_path)

    def put_away():
        """Let loading the other model take the room of the first one's weights."""
        client.unload_model("other")
        wait_until(lambda: total(scrape(server), "alcedo_gpu_memory_bytes", "other") == 0, "the memory is given back")
        faults.cause_allocations(2)
        client.load_model("other")
        wait_until(lambda: not weights(server, "one") and weights(server, "other"), "the other model has the room")

    with start(repository, "--gpu-memory-overcommit", env=faults.env) as server:
        stub, client = server.stub(), server.client()
        want = answers(stub, "one", 8)
        assert splits(server) == 0
        put_away()
        # No room at first, nor when the other model has made some.
        faults.cause_allocations(4)
        assert difference(answers(stub, "one", 8), want) <= 1e-5
        assert splits(server) == 1
        put_away()
        # No room for anything: each request is tried alone.
        faults.cause_allocations(100)
        for error in answers(stub, "one", 8):
            assert error.code() == EXHAUSTED and "no memory for this request, not even alone" in error.details(), error
        assert splits(server) == 1 + 7
        faults.cause_allocations(0)
        assert difference(answers(stub, "one", 8), want) <= 1e-5
        assert client.is_server_ready() and splits(server) == 1 + 7


@faults
def test_a_lost_device_drains_the_server(repository, tmp_path):
    write_encoder(repository, "tiny", TINY, "f32", graphs="off")
    write_identity(repository, "unconcerned")
    faults = Faults(tmp_path)
    with start(repository, env=faults.env) as server:
        stub, client = server.stub(), server.client()
        answers(stub, "tiny", 8)
        assert client.is_server_ready() and server.health_status() == "SERVING"
        faults.cause("launch:3")
        for error in answers(stub, "tiny", 40):
            if isinstance(error, grpc.RpcError):
                assert error.code() == UNAVAILABLE and "the device 'cuda:0' is lost" in error.details(), error
        wait_until(lambda: not client.is_server_ready(), "the server is not ready")
        assert not client.is_model_ready("tiny") and client.is_server_live()
        wait_until(lambda: server.health_status() == "NOT_SERVING", "the health service says so")
        # Nothing is tried again.
        executed = total(scrape(server), "nv_inference_exec_count", "tiny")
        with refused(UNAVAILABLE, "the device 'cuda:0' is lost"):
            stub.ModelInfer(ask("tiny", IDS[0]), timeout=LIMIT_S)
        assert total(scrape(server), "nv_inference_exec_count", "tiny") == executed
        # What has nothing to do with the device goes on until the process is ended.
        stub.ModelInfer(request("unconcerned", [("INPUT0", "FP32", [2], [1.0, 2.0])]), timeout=LIMIT_S)
        server.terminate()
        assert server.wait_exit() == 0


NO_DRIVER = {"LD_LIBRARY_PATH": "", "ALCEDO_CUDA_LIBRARY_PATH": ""}
without_gpu = pytest.mark.skipif(EMULATOR is None, reason="this machine has a GPU")


@without_gpu
def test_without_a_gpu_what_asks_for_one_is_refused(tiny):
    with start(tiny, load=(), env=NO_DRIVER) as server:
        with refused(INVALID, r"(?s)tiny.*no NVIDIA driver is installed"):
            server.client().load_model("tiny")
    with start(tiny, "--device=cuda:0", load=(), env=NO_DRIVER, ready=False) as server:
        assert server.wait_exit() == 1
        assert "no NVIDIA driver is installed" in server.log() and "listens" not in server.log()


@without_gpu
def test_without_a_gpu_models_that_leave_it_open_run_on_the_processor(repository):
    write_encoder(repository, "tiny", TINY, "f32", "instance_group [ { count: 1, kind: KIND_AUTO } ]")
    results = []
    for env in (NO_DRIVER, {}):
        with start(repository, env=env) as server:
            results.append(answers(server.stub(), "tiny", len(IDS)))
            log = server.log()
            assert ("no NVIDIA driver is installed" in log) == (env is NO_DRIVER)
            assert bool(weights(server, "tiny")) == (env is not NO_DRIVER)
    assert difference(*results) <= 1e-4
