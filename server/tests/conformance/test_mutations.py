"""Ten thousand mutated requests: each gets an error status or the right answer, and the server stays as it was."""

import collections
import random

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from google.protobuf.message import DecodeError

from harness.models import DATATYPES
from harness.wire import CONTENTS, NUMPY, encode, outputs_of, request

LIMIT_S = 120
SEED = 20_250_101
MUTATIONS = 10_000
WARM_UP = 2_000
AT_ONCE = 50
# What the allocator may keep beyond the warm-up; a leak of one request's bytes each would be far more.
GROWTH_BYTES = 48 << 20

# Codes that refuse a request. UNKNOWN would be a fault of the server, DEADLINE_EXCEEDED one that hangs.
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED,
}

DIMENSIONS = [0, 1, 2, 3, 7, 255, 1 << 16, 1 << 31, (1 << 31) - 1, 1 << 32, 1 << 62, (1 << 63) - 1, -1, -2,
              -(1 << 63)]


def bases():
    """Return the valid requests that mutations start from."""
    found = []
    for datatype in DATATYPES:
        values = [b"text", b"", b"\x00"] if datatype == "BYTES" else np.arange(3).astype(NUMPY[datatype])
        name = f"identity_{datatype.lower()}"
        found.append(request(name, [("INPUT0", datatype, [3], values)], id="base"))
        if datatype in CONTENTS:
            found.append(request(name, [("INPUT0", datatype, [3], list(values))], ["OUTPUT0"], raw=False))
    found.append(request("batch_fp32", [("INPUT0", "FP32", [2, 4], np.arange(8, dtype=np.float32))], ["OUTPUT0"],
                         parameters={"priority": 1, "timeout": 1000, "mine": "x"}))
    found.append(request("rank_4", [("INPUT0", "INT32", [1, 2, 2, 2], np.arange(8, dtype=np.int32))], version="1"))
    found.append(request("batch_bytes", [("INPUT0", "BYTES", [2, 2], [b"a", b"bc", b"", b"def"])]))
    found.append(request("identity_int32", [("INPUT0", "INT32", [2000], np.arange(2000, dtype=np.int32))]))
    return found


def mutate_message(chance, message):
    """Change fields of a request: shapes, byte counts, names, datatypes, parameters."""
    changed = pb.ModelInferRequest()
    changed.CopyFrom(message)
    tensor = changed.inputs[0]
    kind = chance.randrange(12)
    if kind == 0:
        tensor.shape[chance.randrange(len(tensor.shape))] = chance.choice(DIMENSIONS)
    elif kind == 1:
        del tensor.shape[:]
        tensor.shape.extend(chance.choice(DIMENSIONS) for _ in range(chance.randrange(9)))
    elif kind == 2 and changed.raw_input_contents:
        raw = changed.raw_input_contents[0]
        changed.raw_input_contents[0] = raw[:chance.randrange(len(raw))] if chance.random() < 0.5 else (
            raw + chance.randbytes(chance.randrange(1, 40)))
    elif kind == 3 and changed.raw_input_contents:
        raw = bytearray(changed.raw_input_contents[0])
        for _ in range(chance.randrange(1, 5)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        changed.raw_input_contents[0] = bytes(raw)
    elif kind == 4:
        tensor.datatype = chance.choice([*DATATYPES, "", "FP31", "bytes", "BOOL "])
    elif kind == 5:
        tensor.name = chance.choice(["", "INPUT1", "OUTPUT0", "input0", "x" * 5000])
    elif kind == 6:
        changed.model_name = chance.choice(["", "nobody", "..", "rank_2", "batch_fp32", "repeat", "chain", "x" * 5000])
    elif kind == 7:
        changed.model_version = chance.choice(["0", "-1", "1", "2", "x", "9" * 40, "1.5", " 1"])
    elif kind == 8:
        changed.inputs.add().CopyFrom(tensor)
        if chance.random() < 0.5:
            changed.inputs[-1].name = "INPUT1"
    elif kind == 9:
        changed.raw_input_contents.append(chance.randbytes(chance.randrange(64)))
    elif kind == 10:
        changed.outputs.add(name=chance.choice(["OUTPUT0", "OUTPUT1", ""]))
        key = chance.choice(["classification", "shared_memory_region", "binary_data", ""])
        changed.outputs[-1].parameters[key].int64_param = chance.choice([-1, 0, 1, 1 << 62])
    else:
        key = chance.choice(["sequence_id", "priority", "timeout", "triton_x", "sequence_start", "", "mine"])
        field = chance.choice(["bool_param", "int64_param", "string_param", "double_param", "uint64_param"])
        value = {"bool_param": True, "string_param": "x", "double_param": 0.5}.get(field, 1 << 62)
        setattr(changed.parameters[key], field, value)
    return changed.SerializeToString()


def mutate_bytes(chance, raw):
    """Change the message on the wire: cut it, flip bits, repeat or remove a piece, write over a piece."""
    if not raw:
        return raw
    raw = bytearray(raw)
    kind = chance.randrange(5)
    place = chance.randrange(len(raw))
    if kind == 0:
        del raw[place:]
    elif kind == 1:
        for _ in range(chance.randrange(1, 9)):
            raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    elif kind == 2:
        raw[place:place] = raw[place:place + chance.randrange(1, 30)]
    elif kind == 3:
        del raw[place:place + chance.randrange(1, 30)]
    else:
        raw[place:place + 8] = chance.choice([b"\xff" * 8, b"\x00" * 8, b"\xff\xff\xff\xff\x7f", chance.randbytes(8)])
    return bytes(raw)


def mutated(chance, base):
    """Return one mutated request as bytes."""
    if chance.random() < 0.5:
        return mutate_message(chance, base)
    raw = mutate_bytes(chance, base.SerializeToString())
    return mutate_bytes(chance, raw) if chance.random() < 0.3 else raw


def expected_raw(message, place):
    """Return the raw form of an input's data, however it was sent."""
    if message.raw_input_contents:
        return message.raw_input_contents[place]
    tensor = message.inputs[place]
    values = list(getattr(tensor.contents, CONTENTS[tensor.datatype]))
    if tensor.datatype in ("INT8", "INT16", "UINT8", "UINT16"):
        # The low bytes count, there is no range check.
        return np.array(values, np.int64).astype(NUMPY[tensor.datatype]).tobytes()
    return encode(tensor.datatype, values)


def check_answer(sent, reply):
    """An answer means that the mutation left a valid request: it must be the right answer to it."""
    message = pb.ModelInferRequest.FromString(sent)
    response = pb.ModelInferResponse.FromString(reply)
    assert response.model_name == message.model_name and response.id == message.id
    if message.model_name.startswith(("identity_", "batch_", "rank_")) and not any(
            each.parameters for each in message.outputs):
        assert len(message.inputs) == len(response.outputs) == 1
        tensor, output = message.inputs[0], response.outputs[0]
        assert (output.datatype, list(output.shape)) == (tensor.datatype, list(tensor.shape))
        assert response.raw_output_contents[0] == expected_raw(message, 0)


def test_ten_thousand_mutated_requests(zoo):
    chance = random.Random(SEED)
    starts = bases()
    channel = zoo.channel()
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer",
                               request_serializer=lambda raw: raw, response_deserializer=lambda raw: raw)
    outcomes = collections.Counter()
    resident_after_warm_up = None
    for begin in range(0, MUTATIONS, AT_ONCE):
        flight = []
        for _ in range(AT_ONCE):
            raw = mutated(chance, chance.choice(starts))
            flight.append((raw, call.future(raw, timeout=LIMIT_S)))
        for place, (raw, future) in enumerate(flight):
            error = future.exception()
            where = f"seed {SEED}, mutation {begin + place}: {raw!r}"
            if error is None:
                outcomes["answered"] += 1
                try:
                    check_answer(raw, future.result())
                except (AssertionError, DecodeError) as wrong:
                    raise AssertionError(f"wrong answer, {where}: {wrong}") from None
            else:
                outcomes[error.code().name] += 1
                assert error.code() in REFUSALS, f"{error.code()} {error.details()}, {where}"
                assert error.details() or error.code() == grpc.StatusCode.UNAVAILABLE, f"no text, {where}"
        if begin % 100 == 0:
            good = call(starts[0].SerializeToString(), timeout=LIMIT_S)
            check_answer(starts[0].SerializeToString(), good)
        if begin + AT_ONCE == WARM_UP:
            resident_after_warm_up = zoo.resident_bytes()
    # Both kinds of outcome must occur, or the mutations are too tame or too wild to show anything.
    assert outcomes["answered"] > 500 and outcomes["INVALID_ARGUMENT"] > 2000, outcomes
    growth = zoo.resident_bytes() - resident_after_warm_up
    assert growth < GROWTH_BYTES, f"resident memory grew by {growth} bytes; outcomes {outcomes}"
    assert zoo.process.poll() is None
    print(f"outcomes {dict(outcomes)}, growth {growth} bytes")


def test_huge_shapes_cost_neither_time_nor_memory(zoo):
    stub = zoo.stub()
    before = zoo.resident_bytes()
    refusals = 0
    for rank in range(1, 9):
        for dimension in (1 << 28, 1 << 40, (1 << 63) - 1):
            message = request(f"rank_{rank}", [("INPUT0", "INT32", [dimension] * rank, b"\0" * 4)])
            try:
                stub.ModelInfer(message, timeout=LIMIT_S)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
                refusals += 1
    many = request("identity_bytes", [("INPUT0", "BYTES", [1 << 40], b"\xff\xff\xff\xff")])
    try:
        stub.ModelInfer(many, timeout=LIMIT_S)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT, error.details()
        refusals += 1
    assert refusals == 25
    assert zoo.resident_bytes() - before < GROWTH_BYTES


def test_many_inputs_and_parameters(zoo):
    stub = zoo.stub()
    crowded = request("identity_fp32", [(f"X{number}", "FP32", [1], b"\0" * 4) for number in range(20_000)])
    try:
        stub.ModelInfer(crowded, timeout=LIMIT_S)
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        # The text is sent in a header: it must stay short enough to arrive at all.
        assert error.details()
    else:
        raise AssertionError("20,000 unknown inputs were accepted")
    message = request("identity_fp32", [("INPUT0", "FP32", [1], [1.0])],
                      parameters={f"key_{number}": number for number in range(20_000)})
    assert list(outputs_of(stub.ModelInfer(message, timeout=LIMIT_S))["OUTPUT0"][2]) == [1.0]
