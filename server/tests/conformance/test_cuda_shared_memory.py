"""CUDA shared memory: a client's memory on a GPU, registered by its IPC handle, for inputs and outputs.

Collected only where $ALCEDO_CUDA_BIN names a build with CUDA. $ALCEDO_EMULATOR_DIR is the folder of the emulated device
(scripts/build-emulator); without it, both sides use NVIDIA's driver.
"""

import ctypes
import os

import numpy as np
import pytest

from harness.models import write_add_sub, write_identity
from harness.server import LIMIT_S, Server
from harness.wire import INTERNAL, INVALID, NOT_FOUND, decode, encode, grpc, parameters_of, pb, refused, request

EMULATOR = os.environ.get("ALCEDO_EMULATOR_DIR")
EXISTS = grpc.StatusCode.ALREADY_EXISTS


class Driver:
    """The few calls of the CUDA driver that a client makes."""

    def __init__(self):
        self._library = ctypes.CDLL(os.path.abspath(f"{EMULATOR}/libcuda.so.1") if EMULATOR else "libcuda.so.1")
        self._call("cuInit", ctypes.c_uint(0))
        self._context = ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), ctypes.c_int(0))
        self._call("cuCtxSetCurrent", self._context)

    def _call(self, name, *arguments):
        status = getattr(self._library, name)(*arguments)
        assert status == 0, f"{name} returned {status}"

    def allocate(self, size):
        """Return the address of new memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return address

    def free(self, address):
        self._call("cuMemFree_v2", address)

    def handle(self, address):
        """Return the handle by which another process opens the memory."""
        handle = (ctypes.c_ubyte * 64)()
        self._call("cuIpcGetMemHandle", handle, address)
        return bytes(handle)

    def put(self, address, data, offset=0):
        self._call("cuMemcpyHtoD_v2", ctypes.c_uint64(address.value + offset), ctypes.c_char_p(data), ctypes.c_size_t(len(data)))
        self._call("cuCtxSynchronize")

    def get(self, address, size, offset=0):
        data = ctypes.create_string_buffer(size)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address.value + offset), ctypes.c_size_t(size))
        return data.raw


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server that lets clients share memory of GPUs."""
    repository = tmp_path_factory.mktemp("shared")
    write_identity(repository, "identity_fp32", "FP32")
    write_identity(repository, "identity_bytes", "BYTES")
    write_add_sub(repository, "add_sub")
    env = {"LD_LIBRARY_PATH": os.path.abspath(EMULATOR)} if EMULATOR else {}
    with Server(repository, "--allow-client-shm=cuda", env=env, program=os.environ["ALCEDO_CUDA_BIN"]) as server:
        yield server


@pytest.fixture(scope="module")
def driver():
    return Driver()


@pytest.fixture
def stub(server):
    """The raw stub; all regions are forgotten afterwards."""
    stub = server.stub()
    yield stub
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(), timeout=LIMIT_S)
    assert not regions(stub)


@pytest.fixture
def memory(driver):
    """Allocates memory of a size, and frees it after the test."""
    taken = []

    def allocate(size):
        taken.append(driver.allocate(size))
        return taken[-1]

    yield allocate
    for address in taken:
        driver.free(address)


def register(stub, name, handle, size, device=0):
    message = pb.CudaSharedMemoryRegisterRequest(name=name, raw_handle=handle, device_id=device, byte_size=size)
    stub.CudaSharedMemoryRegister(message, timeout=LIMIT_S)


def regions(stub, name=""):
    return stub.CudaSharedMemoryStatus(pb.CudaSharedMemoryStatusRequest(name=name), timeout=LIMIT_S).regions


def at(name, size, offset=0):
    return {"shared_memory_region": name, "shared_memory_byte_size": size, "shared_memory_offset": offset}


def placed(model, datatype, shape, source, target, **more):
    return request(model, [("INPUT0", datatype, shape, None, source)], [("OUTPUT0", target)], **more)


def test_both_sides_on_the_device(driver, stub, memory):
    source, target = memory(256), memory(256)
    driver.put(source, encode("INT32", [*range(16), *[3] * 16]), 16)
    driver.put(target, bytes(256))
    register(stub, "source", driver.handle(source), 256)
    register(stub, "target", driver.handle(target), 256)
    message = request("add_sub", [("INPUT0", "INT32", [16], None, at("source", 64, 16)),
                                  ("INPUT1", "INT32", [16], None, at("source", 64, 80))],
                      [("OUTPUT0", at("target", 64, 4)), "OUTPUT1"])
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    values = np.arange(16, dtype=np.int32)
    assert driver.get(target, 72) == bytes(4) + (values + 3).tobytes() + bytes(4)
    assert parameters_of(reply.outputs[0]) == at("target", 64, 4)
    assert list(reply.raw_output_contents) == [b"", (values - 3).tobytes()]


def test_streams_and_large_tensors(driver, stub, memory):
    size = 3 << 20
    source, target = memory(size), memory(size)
    values = np.random.default_rng(3).standard_normal(size // 4, dtype=np.float32)
    driver.put(source, values.tobytes())
    register(stub, "source", driver.handle(source), size)
    register(stub, "target", driver.handle(target), size)
    messages = [placed("identity_fp32", "FP32", [size // 4], at("source", size), at("target", size), id=str(number))
                for number in range(3)]
    replies = list(stub.ModelStreamInfer(iter(messages), timeout=LIMIT_S))
    assert [(reply.error_message, reply.infer_response.id) for reply in replies] == [("", "0"), ("", "1"), ("", "2")]
    assert driver.get(target, size) == values.tobytes()


def test_strings(driver, stub, memory):
    texts = [b"a", b"", b"x" * 50]
    raw = encode("BYTES", texts)
    both = memory(256)
    driver.put(both, raw)
    register(stub, "both", driver.handle(both), 256)
    reply = stub.ModelInfer(placed("identity_bytes", "BYTES", [3], at("both", len(raw)), at("both", 128, 128)), timeout=LIMIT_S)
    used = parameters_of(reply.outputs[0])["shared_memory_byte_size"]
    assert decode("BYTES", driver.get(both, used, 128)) == texts


def test_a_life_of_a_region(driver, stub, memory):
    address = memory(64)
    handle = driver.handle(address)
    register(stub, "r", handle, 64)
    with refused(EXISTS, "^shared memory region 'r' already in manager$"):
        register(stub, "r", handle, 64)
    ((name, about),) = regions(stub).items()
    assert (name, about.name, about.device_id, about.byte_size) == ("r", "r", 0, 64)
    with refused(INTERNAL, "^shared memory size specified with the request for output 'OUTPUT0' .4 bytes. should be at least 8"):
        driver.put(address, encode("FP32", [1, 2]))
        stub.ModelInfer(placed("identity_fp32", "FP32", [2], at("r", 8), at("r", 4)), timeout=LIMIT_S)
    with refused(INVALID, "^Invalid offset . byte size for shared memory region: 'r'$"):
        stub.ModelInfer(placed("identity_fp32", "FP32", [2], at("r", 8, 60), at("r", 4)), timeout=LIMIT_S)
    stub.CudaSharedMemoryUnregister(pb.CudaSharedMemoryUnregisterRequest(name="r"), timeout=LIMIT_S)
    with refused(NOT_FOUND, "^Unable to find cuda shared memory region: 'r'$"):
        regions(stub, "r")
    register(stub, "again", handle, 64)


def test_handles_that_are_refused(driver, stub, memory):
    handle = driver.handle(memory(64))
    for size in (63, 0, 65):
        with refused(INVALID, f"^failed to register shared memory region 'r': invalid args: raw_handle has {size} bytes"):
            register(stub, "r", (handle * 2)[:size], 64)
    with refused(INVALID, "^failed to register shared memory region 'r': invalid args: GPU 0: opening a CUDA IPC handle failed"):
        register(stub, "r", b"\x5a" * 64, 64)
    with refused(INVALID, "^failed to register shared memory region 'r': invalid args: byte size [0-9]+ is more than the"):
        register(stub, "r", handle, 1 << 40)
    with refused(INVALID, "^failed to register CUDA shared memory region: 'r', GPUs not supported: GPU 99 cannot be used: "):
        register(stub, "r", handle, 64, device=99)
    register(stub, "r", handle, 64)


def test_metadata_lists_the_extension(server):
    extensions = server.client().get_server_metadata().extensions
    assert "cuda_shared_memory" in extensions and "system_shared_memory" not in extensions
