"""Which version answers, and which versions a policy makes available."""

import pytest
from tritonclient.grpc import service_pb2 as pb

from harness.wire import INVALID, NOT_FOUND, outputs_of, refused, request

LIMIT_S = 60


def ask(stub, model, version=""):
    """Return (version that answered, first output) for the inputs 10 and 3."""
    message = request(model, [("INPUT0", "INT32", [1], [10]), ("INPUT1", "INT32", [1], [3])], version=version)
    reply = stub.ModelInfer(message, timeout=LIMIT_S)
    return reply.model_version, int(outputs_of(reply)["OUTPUT0"][2][0])


def available(stub, model):
    """Return the versions that the metadata lists."""
    return list(stub.ModelMetadata(pb.ModelMetadataRequest(name=model), timeout=LIMIT_S).versions)


def test_latest_is_the_default_policy(stub):
    assert available(stub, "latest") == ["3"]
    assert ask(stub, "latest") == ("3", 13)


def test_latest_two(stub):
    assert available(stub, "latest_2") == ["2", "3"]
    assert ask(stub, "latest_2", "2") == ("2", 7)
    assert ask(stub, "latest_2", "3") == ("3", 13)


def test_all_versions_in_numeric_order(stub):
    # "10" is later than "2"; the directories "01" and "next" are no versions.
    assert available(stub, "all_versions") == ["1", "2", "10"]
    assert ask(stub, "all_versions") == ("10", 13)
    assert ask(stub, "all_versions", "2") == ("2", 7)


def test_specific_versions_skip_what_is_missing(stub):
    assert available(stub, "specific") == ["1", "3"]
    assert ask(stub, "specific") == ("3", 13)


def test_metadata_of_one_version(stub):
    reply = stub.ModelMetadata(pb.ModelMetadataRequest(name="latest_2", version="2"), timeout=LIMIT_S)
    assert list(reply.versions) == ["2"]


def test_version_that_is_not_there(stub):
    with refused(NOT_FOUND, r"Request for unknown model: 'latest' version 7 is not found"):
        ask(stub, "latest", "7")


@pytest.mark.parametrize("version", ["x", "1x", "1.0", " "])
def test_version_that_is_no_number(stub, version):
    with refused(INVALID, r"failed to get model version from specified version string '" + version + r"'"):
        ask(stub, "latest", version)


@pytest.mark.parametrize("version", ["0", "-1", "-7"])
def test_version_below_one(stub, version):
    with refused(INVALID, rf"invalid model version specified '{version}' , version should be an integral value > 0"):
        ask(stub, "latest", version)
