"""Shared memory: registration and its texts, tensors in it on calls and streams, and memory that changes or goes."""

import contextlib
import itertools
import os
import queue
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import serialize_byte_tensor

from harness.details import details_of
from harness.models import DATATYPES, ensemble, write, write_add_sub, write_identity, write_repeat, write_sleep
from harness.server import LIMIT_S, Server, wait_until
from harness.state import hold, nap
from harness.wire import (
    INTERNAL, INVALID, NOT_FOUND, UNIMPLEMENTED, decode, encode, grpc, outputs_of, parameters_of, pb, refused, request)

EXISTS = grpc.StatusCode.ALREADY_EXISTS
OFF = r"^Client shared memory is disabled\. Start the server with '--allow-client-shm=true' to enable\.$"

# Bytes beyond which the server copies on a thread of its own.
LARGE = 5 << 20

names = (f"alcedo-conformance-{os.getpid()}-{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that lets clients share memory."""
    repository = tmp_path_factory.mktemp("shared")
    for datatype in DATATYPES:
        write_identity(repository, f"identity_{datatype.lower()}", datatype)
    write_add_sub(repository, "add_sub")
    write_add_sub(repository, "add_sub_batch", max_batch_size=8)
    write_repeat(repository, "repeat")
    write_sleep(repository, "sleep")
    write_identity(repository, "classes", "FP32", [4], 8)
    write_identity(repository, "cached", "INT32", extra="response_cache { enable: true }")
    vector = [("A", "INT32", [16]), ("B", "INT32", [16])]
    write(repository, "chain", ensemble(
        "chain", vector, [("DOUBLE_A", "INT32", [16])],
        [("add_sub_batch", {"INPUT0": "A", "INPUT1": "B"}, {"OUTPUT0": "sum", "OUTPUT1": "difference"}),
         ("add_sub_batch", {"INPUT0": "sum", "INPUT1": "difference"}, {"OUTPUT0": "DOUBLE_A"})], 8))
    with Server(repository, "--allow-client-shm=true", "--cache-config=local,size=1048576") as server:
        yield server


@pytest.fixture
def stub(server):
    """The raw stub; all regions are forgotten afterwards."""
    stub = server.stub()
    yield stub
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=LIMIT_S)
    assert not regions(stub)


@pytest.fixture
def client(server, stub):
    """A tritonclient client."""
    return server.client()


class Object:
    """A POSIX object, registered under a name of its own."""

    def __init__(self, stub, size):
        self.name, self.stub, self.size = next(names), stub, size
        self.key = f"/{self.name}"
        self.handle = shm.create_shared_memory_region(self.name, self.key, size, create_only=True)
        register(stub, self.name, self.key, size)

    def put(self, data, offset=0):
        """Write bytes."""
        self.handle._mpsm_handle.buf[offset:offset + len(data)] = data

    def get(self, size, offset=0):
        """Return bytes."""
        return bytes(self.handle._mpsm_handle.buf[offset:offset + size])

    def at(self, size, offset=0):
        """Return the parameters of a tensor that lies here."""
        place = {"shared_memory_region": self.name, "shared_memory_byte_size": size}
        return place | ({"shared_memory_offset": offset} if offset else {})

    def truncate(self, size):
        """Give the object another length."""
        os.truncate(f"/dev/shm/{self.name}", size)

    def close(self):
        """Remove the object."""
        shm.destroy_shared_memory_region(self.handle)


@pytest.fixture
def share(stub):
    """Makes objects, and removes them after the test."""
    with contextlib.ExitStack() as stack:
        def make(size):
            made = Object(stub, size)
            stack.callback(made.close)
            return made
        yield make


def register(stub, name, key, size, offset=0):
    stub.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name=name, key=key, offset=offset, byte_size=size), timeout=LIMIT_S)


def regions(stub, name=""):
    """Return the registered system regions."""
    return stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(name=name), timeout=LIMIT_S).regions


def placed(model, datatype, shape, source, target, **more):
    """Return a request to an identity model; both sides are parameters of tensors, or `source` values."""
    values, place = (None, source) if isinstance(source, dict) else (source, None)
    outputs = [("OUTPUT0", target)] if target else []
    return request(model, [("INPUT0", datatype, shape, values, place)], outputs, **more)


def infer(stub, message):
    return stub.ModelInfer(message, timeout=LIMIT_S)


def stream(stub, messages):
    return list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))


def vectors():
    """Return the inputs of an add_sub model."""
    return np.arange(16, dtype=np.int32), np.full(16, 3, np.int32)


def add_sub_tensors(share, offset):
    """Return inputs and outputs of add_sub as tritonclient has them, and where the outputs are read."""
    inputs, outputs, targets = [], [], []
    for number, values in enumerate(vectors()):
        source, target = share(256), share(256)
        shm.set_shared_memory_region(source.handle, [values], offset)
        inputs.append(triton.InferInput(f"INPUT{number}", [16], "INT32"))
        inputs[-1].set_shared_memory(source.name, 64, offset)
        outputs.append(triton.InferRequestedOutput(f"OUTPUT{number}"))
        outputs[-1].set_shared_memory(target.name, 128, offset)
        targets.append(target)
    return inputs, outputs, targets


@pytest.mark.parametrize("offset", [0, 13, 128])
def test_tritonclient_reads_and_writes_regions(client, share, offset):
    inputs, outputs, targets = add_sub_tensors(share, offset)
    result = client.infer("add_sub", inputs, outputs=outputs)
    left, right = vectors()
    for number, expected in enumerate((left + right, left - right)):
        output = result.get_output(f"OUTPUT{number}")
        assert (output.datatype, list(output.shape)) == ("INT32", [16])
        place = {"shared_memory_region": targets[number].name, "shared_memory_byte_size": 64}
        assert parameters_of(output) == place | ({"shared_memory_offset": offset} if offset else {})
        got = shm.get_contents_as_numpy(targets[number].handle, np.int32, [16], offset)
        assert np.array_equal(got, expected)
        del got
        assert targets[number].get(256 - offset - 64, offset + 64) == bytes(256 - offset - 64)


def test_tritonclient_streams_regions(server, client, share):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    inputs, outputs, targets = add_sub_tensors(share, 0)
    for number in range(5):
        client.async_stream_infer("add_sub", inputs, request_id=str(number), outputs=outputs)
        result, error = answers.get(timeout=LIMIT_S)
        assert error is None and result.get_response().id == str(number)
        left, right = vectors()
        assert np.array_equal(decode("INT32", targets[0].get(64)), left + right)
        assert np.array_equal(decode("INT32", targets[1].get(64)), left - right)
        targets[0].put(bytes(64))
        targets[1].put(bytes(64))
    client.stop_stream()


def test_raw_and_shared_tensors_mix(client, share):
    left, right = vectors()
    inputs, outputs, targets = add_sub_tensors(share, 0)
    inputs[0] = triton.InferInput("INPUT0", [16], "INT32").set_data_from_numpy(left)
    outputs[0] = triton.InferRequestedOutput("OUTPUT0")
    result = client.infer("add_sub", inputs, outputs=outputs)
    assert np.array_equal(result.as_numpy("OUTPUT0"), left + right)
    assert np.array_equal(decode("INT32", targets[1].get(64)), left - right)
    outputs.reverse()
    result = client.infer("add_sub", inputs, outputs=outputs)
    assert np.array_equal(result.as_numpy("OUTPUT0"), left + right)


@pytest.mark.parametrize("datatype", [each for each in DATATYPES if each != "BYTES"])
def test_every_datatype(stub, share, datatype):
    raw = encode(datatype, [0, 1, 1, 0, 1])
    source, target = share(64), share(64)
    source.put(raw, 3)
    reply = infer(stub, placed(f"identity_{datatype.lower()}", datatype, [5], source.at(len(raw), 3), target.at(60, 4)))
    assert list(reply.raw_output_contents) == [b""]
    assert target.get(60, 4) == raw + bytes(60 - len(raw))


def test_bytes_both_ways(client, share):
    texts = np.array([b"a", b"", "\u00e9\u00e9".encode(), b"x" * 300], dtype=np.object_)
    serialized = serialize_byte_tensor(texts)
    size = len(serialized.item())
    source, target = share(1000), share(1000)
    shm.set_shared_memory_region(source.handle, [serialized])
    given = triton.InferInput("INPUT0", [4], "BYTES")
    given.set_shared_memory(source.name, size)
    wanted = triton.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory(target.name, 1000)
    result = client.infer("identity_bytes", [given], outputs=[wanted])
    assert list(shm.get_contents_as_numpy(target.handle, np.object_, [4])) == list(texts)
    # How much is used is told: of BYTES, the shape does not say it.
    assert parameters_of(result.get_output("OUTPUT0"))["shared_memory_byte_size"] == size


def test_bytes_must_fill_their_place(stub, share):
    source = share(64)
    source.put(encode("BYTES", [b"ab", b"c"]))
    for size, text in [(6, "expected 2 string elements"), (8, "incomplete string length indicator"),
                       (10, "incomplete string data"), (15, "unexpected number of string elements 3")]:
        with refused(INVALID, text):
            infer(stub, placed("identity_bytes", "BYTES", [2], source.at(size), None))


@pytest.mark.parametrize("streamed", [False, True])
def test_large_tensors(stub, share, streamed):
    values = np.random.default_rng(5).integers(0, 1 << 30, LARGE // 4, dtype=np.int32)
    source, target = share(LARGE), share(LARGE)
    source.put(values.tobytes())
    messages = [placed("identity_int32", "INT32", [len(values)], source.at(LARGE), target.at(LARGE), id=str(number))
                for number in range(3)]
    if streamed:
        replies = [reply.infer_response for reply in stream(stub, messages)]
    else:
        replies = [infer(stub, message) for message in messages]
    assert [reply.id for reply in replies] == ["0", "1", "2"]
    assert target.get(LARGE) == values.tobytes()


def test_a_stream_goes_on_after_refusals(stub, share):
    small, large = share(8), share(LARGE)
    large.put(np.ones(LARGE // 4, np.float32).tobytes())
    small.put(encode("FP32", [2.5]))
    count = LARGE // 4
    replies = stream(stub, [
        placed("identity_fp32", "FP32", [count], large.at(LARGE), large.at(LARGE), id="large"),
        placed("identity_fp32", "FP32", [1], {"shared_memory_region": "nobody", "shared_memory_byte_size": 4}, None),
        placed("identity_fp32", "FP32", [count], large.at(LARGE), large.at(LARGE - 4)),
        placed("identity_fp32", "FP32", [1], small.at(4), small.at(4, 4), id="small"),
    ])
    assert [reply.error_message for reply in replies] == [
        "", "Unable to find shared memory region: 'nobody'",
        f"shared memory size specified with the request for output 'OUTPUT0' ({LARGE - 4} bytes) should be at least "
        f"{LARGE} bytes to hold the results", ""]
    reasons = [parameters_of(reply.infer_response).get("alcedo_reason") for reply in replies]
    assert reasons == [None, "UNKNOWN_REGION", "OUTPUT_BEYOND_REGION", None]
    assert decode("FP32", small.get(8)).tolist() == [2.5, 2.5]


def test_a_decoupled_model_writes_the_same_place_again(stub, share):
    source, target = share(64), share(4)
    source.put(encode("INT32", [4, 5, 6]))
    message = request("repeat", [("IN", "INT32", [3], None, source.at(12)), ("DELAY", "UINT32", [3], [0, 0, 0]),
                                 ("WAIT", "UINT32", [1], [0])], [("OUT", target.at(4)), "IDX"])
    replies = stream(stub, [message])
    assert [outputs_of(reply.infer_response)["IDX"][2].tolist() for reply in replies] == [[0], [1], [2]]
    assert decode("INT32", target.get(4)).tolist() == [6]


def test_ensembles_and_batches(stub, share):
    left, right = vectors()
    source, target = share(1024), share(1024)
    source.put(np.concatenate([left, left, right, right]).tobytes())
    message = request("chain", [("A", "INT32", [2, 16], None, source.at(128)),
                                ("B", "INT32", [2, 16], None, source.at(128, 128))], [("DOUBLE_A", target.at(128, 512))])
    infer(stub, message)
    assert np.array_equal(decode("INT32", target.get(128, 512)), np.concatenate([left, left]) * 2)


def test_a_cached_answer_is_written_too(stub, share):
    source, target = share(64), share(64)
    for value in (1, 2, 1, 2):
        source.put(encode("INT32", [value] * 4))
        target.put(bytes(64))
        infer(stub, placed("cached", "INT32", [4], source.at(16), target.at(64)))
        assert decode("INT32", target.get(16)).tolist() == [value] * 4


def test_empty_tensors(stub, share):
    source, target = share(16), share(16)
    source.put(b"\1" * 16)
    reply = infer(stub, placed("identity_fp32", "FP32", [0], source.at(0), target.at(16)))
    assert parameters_of(reply.outputs[0])["shared_memory_byte_size"] == 0
    assert target.get(16) == bytes(16)


def test_status_lists_what_is_registered(client, share):
    assert len(client.get_system_shared_memory_status().regions) == 0
    first, second = share(64), share(128)
    client.register_system_shared_memory("part", first.key, 16, offset=48)
    listed = client.get_system_shared_memory_status().regions
    assert {name: (each.name, each.key, each.offset, each.byte_size) for name, each in listed.items()} == {
        first.name: (first.name, first.key, 0, 64), second.name: (second.name, second.key, 0, 128),
        "part": ("part", first.key, 48, 16)}
    (one,) = client.get_system_shared_memory_status("part").regions.values()
    assert one.offset == 48
    assert len(client.get_cuda_shared_memory_status().regions) == 0
    client.unregister_system_shared_memory("part")
    client.unregister_system_shared_memory("part")
    client.unregister_cuda_shared_memory(first.name)
    assert set(client.get_system_shared_memory_status().regions) == {first.name, second.name}
    client.unregister_system_shared_memory()
    assert len(client.get_system_shared_memory_status().regions) == 0
    with refused("StatusCode.NOT_FOUND", "^Unable to find system shared memory region: 'part'$"):
        client.get_system_shared_memory_status("part")
    with refused("StatusCode.NOT_FOUND", "^Unable to find cuda shared memory region: 'part'$"):
        client.get_cuda_shared_memory_status("part")


def test_registrations_that_are_refused(stub, share):
    thing = share(64)
    with refused(EXISTS, f"^shared memory region '{thing.name}' already in manager$"):
        register(stub, thing.name, thing.key, 64)
    for size, offset in [(65, 0), (64, 1), (1, 64), (0, 65), (2**64 - 1, 1)]:
        with refused(INVALID, "^failed to register shared memory region 'r': invalid args"):
            register(stub, "r", thing.key, size, offset)
    missing = next(names)
    with refused(INTERNAL, f"^Unable to open shared memory region: '/{missing}'"):
        register(stub, "r", f"/{missing}", 1)
    for key in ["", "///", "..", "/../../etc/passwd", f"{thing.key}/x", "x" * 300]:
        with refused(INVALID, "^cannot register shared memory region 'r' - invalid shm key '"):
            register(stub, "r", key, 1)
    prefix = "triton_python_backend_shm_region_"
    with refused(INVALID, f"^cannot register shared memory region 'r' with key '/{prefix}1' as the key contains the "
                          f"reserved prefix '{prefix}'$"):
        register(stub, "r", f"/{prefix}1", 1)
    link = f"/dev/shm/{next(names)}"
    os.symlink("/etc/passwd", link)
    try:
        with refused(INTERNAL, "^Unable to open shared memory region: "):
            register(stub, "r", os.path.basename(link), 1)
    finally:
        os.unlink(link)
    assert set(regions(stub)) == {thing.name}


def test_places_that_are_refused(stub, share):
    thing = share(64)
    region = f"shared memory region: '{thing.name}'"
    cases = [
        (thing.at(4) | {"shared_memory_region": "nobody"}, NOT_FOUND, "^Unable to find shared memory region: 'nobody'$"),
        (thing.at(4, 64), INVALID, f"^Invalid offset for {region}$"),
        (thing.at(4, -1), INVALID, f"^Invalid offset for {region}$"),
        (thing.at(8, 60), INVALID, f"^Invalid offset \\+ byte size for {region}$"),
        (thing.at(65), INVALID, f"^Invalid offset \\+ byte size for {region}$"),
        (thing.at(-32, 32), INVALID, r"^Integer overflow detected: byte_size \(18446744073709551584\) \+ offset \(32\)"),
        ({"shared_memory_offset": 4}, INVALID, "^'shared_memory_offset' can not be specified without "),
        ({"shared_memory_byte_size": 4}, INVALID, "^'shared_memory_byte_size' can not be specified without "),
        ({"shared_memory_region": thing.name}, INVALID, "^'shared_memory_byte_size' must be specified along with "),
        (thing.at("4"), INVALID, "^invalid value type for 'shared_memory_byte_size' parameter for tensor "),
    ]
    for place, code, text in cases:
        with refused(code, text):
            infer(stub, placed("identity_fp32", "FP32", [1], place, None))
        with refused(code, text):
            infer(stub, placed("identity_fp32", "FP32", [1], [1.0], place))


def test_inputs_that_are_refused(stub, share):
    thing = share(256)
    with refused(INVALID, "^unexpected 'content' provided when using shared memory for input tensor 'INPUT0' for model"):
        message = placed("identity_fp32", "FP32", [1], thing.at(4), None)
        message.inputs[0].contents.fp32_contents.append(1.0)
        infer(stub, message)
    with refused(INVALID, "input byte size mismatch for input 'INPUT0' for model 'identity_fp32'. Expected 64, got 128"):
        infer(stub, placed("identity_fp32", "FP32", [16], thing.at(128), None))
    with refused(INVALID, "output can't set both 'shared_memory_region' and 'classification'"):
        infer(stub, placed("classes", "FP32", [1, 4], [1.0] * 4, thing.at(64) | {"classification": 1}))
    with refused(INTERNAL, r"^shared memory size specified with the request for output 'OUTPUT0' \(4 bytes\) should be "
                           "at least 8 bytes to hold the results$"):
        infer(stub, placed("identity_fp32", "FP32", [2], [1.0, 2.0], thing.at(4)))
    # A sparse object takes no memory; copies of it would.
    thing.truncate(1 << 32)
    register(stub, "sparse", thing.key, 1 << 32)
    place = {"shared_memory_region": "sparse", "shared_memory_byte_size": 1 << 31}
    with refused(INVALID, "^the inputs have 2147483648 bytes in shared memory, more than the 2147483647 bytes"):
        infer(stub, placed("identity_fp32", "FP32", [1 << 29], place, None))
    thing.truncate(256)


def test_memory_that_shrinks_is_an_error_of_the_request(stub, share):
    thing = share(8192)
    thing.truncate(4096)
    message = placed("identity_fp32", "FP32", [2048], thing.at(8192), None)
    with pytest.raises(grpc.RpcError, match="has become shorter than it was registered: 8192 bytes .* 4096 are left") as caught:
        infer(stub, message)
    info, wait = details_of(caught.value)
    assert (info.reason, info.metadata["region"], wait) == ("REGION_SHRUNK", thing.name, None)
    with refused(INVALID, "has become shorter"):
        infer(stub, placed("identity_fp32", "FP32", [2048], [1.0] * 2048, thing.at(8192)))
    assert os.stat(f"/dev/shm/{thing.name}").st_size == 4096
    infer(stub, placed("identity_fp32", "FP32", [1024], thing.at(4096), thing.at(4096)))
    thing.truncate(0)
    (reply,) = stream(stub, [message])
    assert "has become shorter" in reply.error_message
    thing.truncate(8192)
    infer(stub, message)


def test_memory_that_changes_is_copied_before_it_is_checked(server, stub, share):
    """While its owner rewrites the lengths of strings, a request is answered or refused, and the answer is whole."""
    good, bad = encode("BYTES", [b"abcd"] * 64), encode("BYTES", [b"abcd"] * 63) + b"\xff\xff\xff\xff----"
    source = share(len(good))
    done = threading.Event()

    def rewrite():
        while not done.is_set():
            source.put(bad)
            source.put(good)

    source.put(good)
    thread = threading.Thread(target=rewrite)
    thread.start()
    try:
        for _ in range(400):
            try:
                reply = infer(stub, placed("identity_bytes", "BYTES", [64], source.at(len(good)), None))
            except grpc.RpcError as error:
                assert error.code() == INVALID and "incomplete string" in error.details()
            else:
                assert decode("BYTES", reply.raw_output_contents[0])[:63] == [b"abcd"] * 63
    finally:
        done.set()
        thread.join()
    assert server.process.poll() is None


def test_a_region_in_use_goes_when_its_request_ends(server, stub, share):
    source, target = share(8), share(8)
    source.put(encode("FP32", [3000.0]))
    message = nap("sleep")
    del message.raw_input_contents[:]
    for key, value in source.at(4).items():
        message.inputs[0].parameters[key].CopyFrom(
            pb.InferParameter(string_param=value) if isinstance(value, str) else pb.InferParameter(int64_param=value))
    output = message.outputs.add(name="OUTPUT0")
    output.parameters["shared_memory_region"].string_param = target.name
    output.parameters["shared_memory_byte_size"].int64_param = 8
    call = hold(server, message)
    stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=LIMIT_S)
    assert set(regions(stub)) == {source.name, target.name}
    with refused(EXISTS, "already in manager"):
        register(stub, source.name, source.key, 8)
    call.cancel()
    wait_until(lambda: not regions(stub), "the regions are gone")


def test_many_clients_at_once(server, share):
    things = [share(4096) for _ in range(8)]
    failures = []

    def work(number, thing):
        stub = server.stub()
        try:
            for turn in range(50):
                values = [number * 1000 + turn] * 512
                thing.put(encode("INT32", values))
                infer(stub, placed("identity_int32", "INT32", [512], thing.at(2048), thing.at(2048, 2048)))
                assert decode("INT32", thing.get(2048, 2048)).tolist() == values
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=each) for each in enumerate(things)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_metadata_lists_the_extension(client):
    assert "system_shared_memory" in client.get_server_metadata().extensions


def test_memory_of_a_gpu_that_is_not_there(stub):
    handle = pb.CudaSharedMemoryRegisterRequest(name="g", raw_handle=bytes(63), device_id=999, byte_size=8)
    with refused(INVALID, "^failed to register (CUDA )?shared memory region:? 'g'"):
        stub.CudaSharedMemoryRegister(handle, timeout=LIMIT_S)
    handle.raw_handle = bytes(64)
    with refused(INVALID, "^failed to register CUDA shared memory region: 'g', GPUs not supported: "):
        stub.CudaSharedMemoryRegister(handle, timeout=LIMIT_S)
    handle.device_id = -1
    with refused(INVALID, "device_id -1 is no device"):
        stub.CudaSharedMemoryRegister(handle, timeout=LIMIT_S)
    assert not stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(), timeout=LIMIT_S).regions
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name="g"), timeout=LIMIT_S)


def test_off_by_default(repository):
    write_identity(repository, "identity")
    thing = next(names)
    with Server(repository) as server:
        stub = server.stub()
        with refused(UNIMPLEMENTED, OFF):
            register(stub, thing, f"/{thing}", 8)
        with refused(UNIMPLEMENTED, OFF):
            stub.SystemSharedMemoryUnregister(pb.SystemSharedMemoryUnregisterRequest(), timeout=LIMIT_S)
        with refused(UNIMPLEMENTED, OFF):
            stub.CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="g"), timeout=LIMIT_S)
        with refused(UNIMPLEMENTED, OFF):
            stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(), timeout=LIMIT_S)
        assert not regions(stub)
        place = {"shared_memory_region": thing, "shared_memory_byte_size": 4}
        for message in (placed("identity", "FP32", [1], place, None), placed("identity", "FP32", [1], [1.0], place)):
            with refused(UNIMPLEMENTED, OFF):
                infer(stub, message)
            (reply,) = stream(stub, [message])
            assert parameters_of(reply.infer_response)["alcedo_status_code"] == "UNIMPLEMENTED"


def test_one_kind_alone(repository):
    with Server(repository, "--allow-client-shm=cuda", load=()) as server:
        stub = server.stub()
        with refused(UNIMPLEMENTED, "^Client system shared memory is disabled. Start the server with '--allow-client-shm=true'"):
            register(stub, "r", "/r", 8)
        assert "system_shared_memory" not in server.client().get_server_metadata().extensions
    with Server(repository, "--allow-client-shm=system", load=()) as server:
        with refused(UNIMPLEMENTED, "^Client CUDA shared memory is disabled. Start the server with '--allow-client-shm=true'"):
            server.stub().CudaSharedMemoryRegister(pb.CudaSharedMemoryRegisterRequest(name="g"), timeout=LIMIT_S)
