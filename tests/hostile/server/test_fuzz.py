"""No request makes a server say more than its protocol does, or harms it."""

import random
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.server.attacked import AUTHORIZED
from tests.hostile.server.fuzzing import ALLOWED, Code, assert_refused_well, messages, mutated

STORAGE, HEALTH = "/lit_storage.v1.PathStorage/", "/grpc.health.v1.Health/"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
METHODS = {
    STORAGE + "Exists": pb.ExistsRequest,
    STORAGE + "Stat": pb.StatRequest,
    STORAGE + "ListFiles": pb.ListFilesRequest,
    STORAGE + "StreamFiles": pb.StreamFilesRequest,
    HEALTH + "Check": health_pb2.HealthCheckRequest,
    HEALTH + "Watch": health_pb2.HealthCheckRequest,
    REFLECTION: reflection_pb2.ServerReflectionRequest,
}
ANY_TEXT = st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
QUICK = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def hidden(attacked):
    """What no sentence may tell: where on its machine the server finds what it shares."""
    return [str(attacked.data.parent)]


def say(attacked, method, body, metadata=AUTHORIZED):
    """Send one message, whatever it is; return the status."""
    call = attacked._channel.stream_stream(method)(iter([body]), timeout=20, metadata=metadata)
    try:
        for _ in call:
            if method.endswith("Watch"):
                call.cancel()
    except grpc.RpcError:
        pass
    code = call.code()
    return Code.OK if method.endswith("Watch") and code is Code.CANCELLED else code, call.details()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
def test_requests_of_the_grammar(attacked, method):
    """Fields with hostile values, unknown, doubled or of wrong types are answered by the protocol's codes."""

    @QUICK
    @given(messages(METHODS[method].DESCRIPTOR))
    def fuzz(body):
        assert_refused_well(*say(attacked, method, body), hidden(attacked), body)

    fuzz()
    assert attacked.answers()
    assert "Traceback" not in attacked.log()


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
def test_requests_cut_and_flipped(attacked, method):
    """Encoded requests that were cut, flipped or grown are answered by the protocol's codes."""

    @QUICK
    @given(mutated(messages(METHODS[method].DESCRIPTOR)))
    def fuzz(body):
        assert_refused_well(*say(attacked, method, body), hidden(attacked), body)

    fuzz()
    assert attacked.answers()
    assert "Traceback" not in attacked.log()


def test_methods_that_are_none(attacked):
    """Names of methods that do not exist are UNIMPLEMENTED, whatever they are."""

    @QUICK
    @given(ANY_TEXT.map(lambda text: "/" + text))
    def fuzz(method):
        code, details = say(attacked, method, b"")
        assert (code, details) == (Code.UNIMPLEMENTED, "Method not found!")

    fuzz()
    assert attacked.answers()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.rpartition("/")[2])
def test_tokens_that_are_none(attacked, method):
    """Without the token every call but a health check is UNAUTHENTICATED, reflection too."""

    @QUICK
    @given(
        st.lists(
            st.tuples(st.sampled_from(["authorization", "x-bin", "te2"]), st.binary(max_size=30)), max_size=3
        )
    )
    def fuzz(metadata):
        metadata = [(key, value if key.endswith("-bin") else value.hex()) for key, value in metadata]
        expected = ALLOWED if "Health" in method else {Code.UNAUTHENTICATED}
        assert say(attacked, method, b"", metadata)[0] in expected

    fuzz()
    assert attacked.answers()


@pytest.mark.soak
def test_fuzz_soak(attacked, soak_seconds, tally):
    """Whatever is sent for as long as there is time, the protocol's codes answer, and then the next call."""
    start, end = random.randrange(2**32), time.monotonic() + soak_seconds
    bodies = {method: messages(kind.DESCRIPTOR) for method, kind in METHODS.items()}
    any_call = st.sampled_from(list(METHODS)).flatmap(
        lambda method: st.tuples(st.just(method), st.one_of(bodies[method], mutated(bodies[method])))
    )
    for number in range(start, start + 2**32):
        print("seed", number)

        @seed(number)
        @settings(QUICK, derandomize=False, max_examples=200)
        @given(any_call)
        def fuzz(call):
            assert_refused_well(*say(attacked, *call), hidden(attacked), call[1])
            tally["fuzzed calls"] += 1

        fuzz()
        assert attacked.answers()
        if time.monotonic() > end:
            break
    assert "Traceback" not in attacked.log()
