"""Model repositories written by the tests: config.pbtxt texts of builtin models."""

import os
import pathlib

# Names on the wire and in the configuration, and the bytes of one element (None: variable).
DATATYPES = {
    "BOOL": ("TYPE_BOOL", 1),
    "UINT8": ("TYPE_UINT8", 1),
    "UINT16": ("TYPE_UINT16", 2),
    "UINT32": ("TYPE_UINT32", 4),
    "UINT64": ("TYPE_UINT64", 8),
    "INT8": ("TYPE_INT8", 1),
    "INT16": ("TYPE_INT16", 2),
    "INT32": ("TYPE_INT32", 4),
    "INT64": ("TYPE_INT64", 8),
    "FP16": ("TYPE_FP16", 2),
    "FP32": ("TYPE_FP32", 4),
    "FP64": ("TYPE_FP64", 8),
    "BF16": ("TYPE_BF16", 2),
    "BYTES": ("TYPE_STRING", None),
}


def tensor(name, datatype, dims, extra=""):
    """Return the text of one input or output."""
    listed = ", ".join(str(dim) for dim in dims)
    return f'{{ name: "{name}", data_type: {DATATYPES[datatype][0]}, dims: [ {listed} ] {extra} }}'


def config(name, kind, inputs, outputs, max_batch_size=0, parameters=None, extra=""):
    """Return the config.pbtxt of a builtin model. `inputs`, `outputs`: tuples for `tensor`."""
    lines = [f'name: "{name}"', 'backend: "builtin"', f"max_batch_size: {max_batch_size}"]
    lines += [f"input [ {tensor(*each)} ]" for each in inputs]
    lines += [f"output [ {tensor(*each)} ]" for each in outputs]
    lines.append("instance_group [ { count: 1, kind: KIND_CPU } ]" if "instance_group" not in extra else "")
    for key, value in {"model": kind, **(parameters or {})}.items():
        lines.append(f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}')
    lines.append(extra)
    return "\n".join(line for line in lines if line) + "\n"


def ensemble(name, inputs, outputs, steps, max_batch_size=0, extra=""):
    """Return the config.pbtxt of an ensemble. `steps`: (model, {input: tensor}, {output: tensor}[, version])."""
    lines = [f'name: "{name}"', 'platform: "ensemble"', f"max_batch_size: {max_batch_size}"]
    lines += [f"input [ {tensor(*each)} ]" for each in inputs]
    lines += [f"output [ {tensor(*each)} ]" for each in outputs]
    lines.append("ensemble_scheduling {")
    for model, input_map, output_map, *version in steps:
        lines.append(f'  step {{ model_name: "{model}" model_version: {version[0] if version else -1}')
        lines += [f'    input_map {{ key: "{key}" value: "{value}" }}' for key, value in input_map.items()]
        lines += [f'    output_map {{ key: "{key}" value: "{value}" }}' for key, value in output_map.items()]
        lines.append("  }")
    lines += ["}", extra]
    return "\n".join(line for line in lines if line) + "\n"


def write(repository, name, text, versions=(1,), files=None):
    """Write a model: its config.pbtxt (None: without), version directories, and other files by path."""
    directory = pathlib.Path(repository) / name
    directory.mkdir(parents=True, exist_ok=True)
    if text is not None:
        (directory / "config.pbtxt").write_bytes(text.encode(errors="surrogateescape"))
    for version in versions:
        (directory / str(version)).mkdir(exist_ok=True)
    for path, content in (files or {}).items():
        target = directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
    return directory


def write_identity(repository, name, datatype="FP32", dims=(-1,), max_batch_size=0, versions=(1,), files=None,
                   parameters=None, extra="", output_extra="", input_extra=""):
    """Write an identity model with INPUT0 and OUTPUT0."""
    text = config(name, "identity", [("INPUT0", datatype, dims, input_extra)],
                  [("OUTPUT0", datatype, dims, output_extra)], max_batch_size, parameters, extra)
    return write(repository, name, text, versions, files)


def write_add_sub(repository, name, datatype="INT32", dims=(16,), max_batch_size=0, kind="add_sub", versions=(1,),
                  parameters=None, extra=""):
    """Write an add_sub or sub_add model."""
    text = config(name, kind, [("INPUT0", datatype, dims), ("INPUT1", datatype, dims)],
                  [("OUTPUT0", datatype, dims), ("OUTPUT1", datatype, dims)], max_batch_size, parameters, extra)
    return write(repository, name, text, versions)


DECOUPLED = "model_transaction_policy { decoupled: true }"


def write_repeat(repository, name, decoupled=True):
    """Write a repeat model."""
    text = config(name, "repeat", [("IN", "INT32", [-1]), ("DELAY", "UINT32", [-1]), ("WAIT", "UINT32", [1])],
                  [("OUT", "INT32", [1]), ("IDX", "UINT32", [1])], extra=DECOUPLED if decoupled else "")
    return write(repository, name, text)


def write_square(repository, name, parameters=None):
    """Write a square model."""
    return write(repository, name, config(
        name, "square", [("IN", "INT32", [1])], [("OUT", "INT32", [1])], 0, parameters, DECOUPLED))


def write_producer(repository, name, parameters=None):
    """Write a producer model."""
    return write(repository, name, config(
        name, "producer", [("IN", "INT32", [1])], [("OUT", "FP32", [1])], 0, parameters, DECOUPLED))


def write_sleep(repository, name, extra="", instances=1):
    """Write a sleep model: seconds in INPUT0[0]."""
    group = f"instance_group [ {{ count: {instances}, kind: KIND_CPU }} ]"
    return write(repository, name, config(
        name, "sleep", [("INPUT0", "FP32", [1])], [("OUTPUT0", "FP32", [1])], extra=f"{group}\n{extra}"))


class SlowLoad:
    """An identity model whose load goes on until the test ends it: its warmup reads a named pipe."""

    def __init__(self, repository, name):
        text = ('model_warmup { name: "pipe" batch_size: 1 inputs { key: "INPUT0" value { '
                'data_type: TYPE_FP32 dims: [ 1 ] input_data_file: "pipe" } } }')
        directory = write_identity(repository, name, dims=[1], extra=text)
        (directory / "warmup").mkdir()
        self._pipe = directory / "warmup" / "pipe"
        os.mkfifo(self._pipe)

    def end(self):
        """Let the load end; waits until it has come to the pipe."""
        self._pipe.write_bytes(bytes(4))
