"""google.rpc error details, read by plain protobuf: the messages are declared here, as their specification has them."""

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, duration_pb2, message_factory

KEY = "grpc-status-details-bin"
FIELD = descriptor_pb2.FieldDescriptorProto


def _declare():
    """Return the classes of Status, ErrorInfo and RetryInfo."""
    file = descriptor_pb2.FileDescriptorProto(name="conformance/rpc.proto", package="google.rpc", syntax="proto3")
    file.dependency.extend([any_pb2.DESCRIPTOR.name, duration_pb2.DESCRIPTOR.name])

    def message(name, *fields):
        declared = file.message_type.add(name=name)
        for number, (field, kind, label, type_name) in enumerate(fields, 1):
            declared.field.add(name=field, number=number, type=kind, label=label, type_name=type_name)
        return declared

    one, many = FIELD.LABEL_OPTIONAL, FIELD.LABEL_REPEATED
    message("Status", ("code", FIELD.TYPE_INT32, one, None), ("message", FIELD.TYPE_STRING, one, None),
            ("details", FIELD.TYPE_MESSAGE, many, ".google.protobuf.Any"))
    info = message("ErrorInfo", ("reason", FIELD.TYPE_STRING, one, None), ("domain", FIELD.TYPE_STRING, one, None),
                   ("metadata", FIELD.TYPE_MESSAGE, many, ".google.rpc.ErrorInfo.MetadataEntry"))
    entry = info.nested_type.add(name="MetadataEntry")
    entry.options.map_entry = True
    for number, name in enumerate(("key", "value"), 1):
        entry.field.add(name=name, number=number, type=FIELD.TYPE_STRING, label=one)
    message("RetryInfo", ("retry_delay", FIELD.TYPE_MESSAGE, one, ".google.protobuf.Duration"))
    pool = descriptor_pool.DescriptorPool()
    for dependency in (any_pb2, duration_pb2):
        pool.AddSerializedFile(dependency.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return [message_factory.GetMessageClass(pool.FindMessageTypeByName(f"google.rpc.{name}"))
            for name in ("Status", "ErrorInfo", "RetryInfo")]


Status, ErrorInfo, RetryInfo = _declare()


def details_of(error):
    """Return (ErrorInfo, seconds to wait or None) of a grpc.RpcError; check that its status says what the call says."""
    trailers = dict(error.trailing_metadata() or ())
    assert KEY in trailers, f"no details beside {error.code()} {error.details()!r}"
    status = Status.FromString(trailers[KEY])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info, wait = None, None
    for detail in status.details:
        kind = detail.type_url.rsplit("/", 1)[-1]
        if kind == "google.rpc.ErrorInfo":
            assert info is None
            info = ErrorInfo.FromString(detail.value)
        elif kind == "google.rpc.RetryInfo":
            delay = RetryInfo.FromString(detail.value).retry_delay
            wait = delay.seconds + delay.nanos / 1e9
        else:
            raise AssertionError(f"unexpected detail {detail.type_url}")
    assert info is not None and info.domain == "alcedo"
    return info, wait
