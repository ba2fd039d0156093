"""Asks a server whether it serves: grpc.health.v1.Health, as load balancers and probes do."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health_pb2

from lit_storage_core.security.settings import Security
from lit_storage_proto.errors import OriginUnavailable


def check_health(
    address: str, security: Security, *, service: str = "", tls_name: str = "", seconds: float = 5.0
) -> str:
    """Return the status that a server tells of itself, such as ``SERVING``.

    Args:
        address: ``HOST:PORT``.
        security: its TLS files; a token is not needed.
        service: of which the status is asked; "" is the server as a whole.
        tls_name: what its certificate is for, where that is not the host of `address`.
        seconds: how long to wait.

    Raises:
        OriginUnavailable: nobody answers there in time, or has no such service.
        AccessDenied: a TLS file cannot be read.
    """
    options: list[tuple[str, int | str]] = [("grpc.enable_http_proxy", 0)]
    if tls_name:
        options.append(("grpc.ssl_target_name_override", tls_name))
    credentials = security.channel_credentials()
    channel = (
        grpc.insecure_channel(address, options)
        if credentials is None
        else grpc.secure_channel(address, credentials, options)
    )
    with channel:
        try:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=seconds)
        except grpc.RpcError as failure:
            raise OriginUnavailable(
                f"{address} does not say that it serves: {failure.code().name.lower()} ({failure.details()})"
            ) from None
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
