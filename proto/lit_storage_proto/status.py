"""Errors to gRPC status codes, and back: the only table of the two.

Every error of `errors` and every status code has a row; a test fails where one has none.
"""

from __future__ import annotations

from typing import Final

import grpc

from lit_storage_proto import errors

CODE_OF: Final[dict[type[errors.StorageError], grpc.StatusCode]] = {
    errors.PathNotFound: grpc.StatusCode.NOT_FOUND,
    errors.PathExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.NotAttached: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OriginUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.RegistryUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.TransferTimeout: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.SourceChanged: grpc.StatusCode.ABORTED,
    errors.IntegrityError: grpc.StatusCode.DATA_LOSS,
    errors.ProtocolViolation: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidURI: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NameTaken: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AddressInUse: grpc.StatusCode.UNAVAILABLE,
    errors.ExecutorUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.InvalidApp: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InvalidConfig: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WorkError: grpc.StatusCode.INTERNAL,
    errors.StorageError: grpc.StatusCode.INTERNAL,
}

ERROR_OF: Final[dict[grpc.StatusCode, type[errors.StorageError]]] = {
    grpc.StatusCode.OK: errors.ProtocolViolation,  # an "error" with the status OK is a lie
    grpc.StatusCode.CANCELLED: errors.OriginUnavailable,  # a server that stops cancels its calls
    grpc.StatusCode.UNKNOWN: errors.ProtocolViolation,
    grpc.StatusCode.INVALID_ARGUMENT: errors.ProtocolViolation,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.TransferTimeout,
    grpc.StatusCode.NOT_FOUND: errors.PathNotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.PathExists,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.AccessDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.OriginUnavailable,  # busy
    grpc.StatusCode.FAILED_PRECONDITION: errors.OriginUnavailable,  # the address belongs to another process
    grpc.StatusCode.ABORTED: errors.SourceChanged,
    grpc.StatusCode.UNIMPLEMENTED: errors.ProtocolViolation,
    grpc.StatusCode.OUT_OF_RANGE: errors.ProtocolViolation,
    grpc.StatusCode.INTERNAL: errors.ProtocolViolation,
    grpc.StatusCode.UNAVAILABLE: errors.OriginUnavailable,
    grpc.StatusCode.DATA_LOSS: errors.IntegrityError,
}


def code_of(error: errors.StorageError) -> grpc.StatusCode:
    """Return the status code under which `error` travels."""
    for kind in type(error).__mro__:
        if kind in CODE_OF:
            return CODE_OF[kind]
    return grpc.StatusCode.INTERNAL


def error_of(code: grpc.StatusCode, message: str) -> errors.StorageError:
    """Return the error that `code` stands for, with `message` as its sentence."""
    return ERROR_OF.get(code, errors.ProtocolViolation)(message)
