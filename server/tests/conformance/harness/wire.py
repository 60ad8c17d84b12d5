"""Requests and replies as protobuf messages, written and read by this suite's own code."""

import contextlib
import re
import struct

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64,
    # BF16 has no numpy type: its 16 bits stand in for it.
    "BF16": np.uint16,
}

# The field of InferTensorContents that carries each datatype; FP16 and BF16 have none.
CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}


def encode(datatype, values):
    """Return the raw form of a flat list or an array."""
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(each)) + each for each in values)
    return np.ascontiguousarray(np.asarray(values, dtype=NUMPY[datatype])).tobytes()


def decode(datatype, raw):
    """Return the flat list (BYTES) or array that a raw form holds."""
    if datatype != "BYTES":
        return np.frombuffer(raw, dtype=NUMPY[datatype])
    values, position = [], 0
    while position < len(raw):
        (length,) = struct.unpack_from("<I", raw, position)
        values.append(raw[position + 4:position + 4 + length])
        assert len(values[-1]) == length, "a BYTES element is cut off"
        position += 4 + length
    return values


def parameter(value):
    """Return an InferParameter of the kind that fits a Python value."""
    if isinstance(value, pb.InferParameter):
        return value
    if isinstance(value, bool):
        return pb.InferParameter(bool_param=value)
    if isinstance(value, int):
        return pb.InferParameter(int64_param=value)
    if isinstance(value, float):
        return pb.InferParameter(double_param=value)
    return pb.InferParameter(string_param=value)


def set_parameters(target, parameters):
    """Fill a parameter map."""
    for key, value in (parameters or {}).items():
        target[key].CopyFrom(parameter(value))


def request(model, inputs=(), outputs=(), version="", id="", parameters=None, raw=True):
    """Return a ModelInferRequest.

    `inputs`: (name, datatype, shape, values[, parameters]); values as bytes are sent as they are, None adds no
    data. `outputs`: names, or (name, parameters). `raw` false: typed contents.
    """
    message = pb.ModelInferRequest(model_name=model, model_version=version, id=id)
    set_parameters(message.parameters, parameters)
    for name, datatype, shape, values, *rest in inputs:
        tensor = message.inputs.add(name=name, datatype=datatype, shape=shape)
        set_parameters(tensor.parameters, rest[0] if rest else None)
        if values is None:
            continue
        if not raw:
            getattr(tensor.contents, CONTENTS[datatype]).extend(values)
        elif isinstance(values, bytes):
            message.raw_input_contents.append(values)
        else:
            message.raw_input_contents.append(encode(datatype, values))
    for output in outputs:
        name, parameters_of = output if isinstance(output, tuple) else (output, None)
        set_parameters(message.outputs.add(name=name).parameters, parameters_of)
    return message


def outputs_of(reply):
    """Return {name: (datatype, shape, flat values)} of a ModelInferResponse."""
    assert len(reply.outputs) == len(reply.raw_output_contents)
    return {
        tensor.name: (tensor.datatype, list(tensor.shape), decode(tensor.datatype, raw))
        for tensor, raw in zip(reply.outputs, reply.raw_output_contents)
    }


def parameters_of(message):
    """Return a parameter map as a dictionary of Python values."""
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()}


@contextlib.contextmanager
def refused(code, pattern=""):
    """Expect a call to fail with a gRPC code and a text that `pattern` (a regular expression) occurs in."""
    try:
        yield
    except grpc.RpcError as error:
        got, text = error.code(), error.details()
    except InferenceServerException as error:
        got, text = error.status(), error.message()
    else:
        raise AssertionError(f"the call succeeded, expected {code} with /{pattern}/")
    assert str(got) == str(code), f"got {got} {text!r}, expected {code} with /{pattern}/"
    assert re.search(pattern, text), f"got {got} {text!r}, expected the text to match /{pattern}/"


INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
INTERNAL = grpc.StatusCode.INTERNAL
CANCELLED = grpc.StatusCode.CANCELLED
DEADLINE_EXCEEDED = grpc.StatusCode.DEADLINE_EXCEEDED
