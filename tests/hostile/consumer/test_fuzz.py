"""Decoders fed by libFuzzer: each raises what it tells of, and nothing else."""

import dataclasses
import importlib.util
import os
import random
import re
import subprocess
import sys

import pytest

from lit_storage_core.registries.etcd.records import encode_live
from lit_storage_proto.artifact import Manifest, StoredEntry, Version
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.frame_codec import encode_detached, encode_frame
from lit_storage_proto.frames import Chunk, Direct, Frame
from lit_storage_proto.manifest_codec import MAGIC, encode_manifest
from lit_storage_proto.registry import LiveRecord
from lit_storage_proto.v1 import path_storage_pb2 as pb
from tests.hostile.consumer.liar import ROOT, a_chunk, a_directory, a_file, a_link, a_pack, gone, told

FUZZ = os.path.join(os.path.dirname(__file__), "fuzz.py")
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


def seeds():
    """Return honest inputs to begin with, each behind the byte that chooses its decoder."""
    parts = [
        a_directory("d"),
        a_file("d/f", b"xy"),
        a_chunk(2, b"xy"),
        a_link("l", "d/f"),
        a_pack(["p", "q"]),
    ]
    frames = [*told(ROOT, *parts), Frame(entries=[gone("d")], round=1), Frame(direct=Direct("u", 1, b"t", 2))]
    whole = [entry for frame in frames for entry in frame.entries if entry.path]
    inputs = [
        (0, encode_frame(frame)) for frame in [*frames, Frame(entries=whole, chunks=[Chunk(2, 0, hole=2)])]
    ]
    message, data = encode_detached(Frame(chunks=[a_chunk(1, b"xy")]))
    page = pb.ListFilesResponse(entries=[pb.Entry(path="x", kind=1), pb.Entry(path_bytes=b"\xff", kind=3)])
    stored = [
        StoredEntry(Entry("", Kind.DIRECTORY)),
        StoredEntry(Entry("f", Kind.FILE, 2), (), (), bytes(16)),
    ]
    version = Version(1, "i1")
    sealed = encode_manifest(Manifest("trainer", "out", version, 1, "m", 512, stored, in_place="/data"))
    record = LiveRecord("trainer", "i1", "127.0.0.1:1", "m")
    inputs += [
        (1, bytes([len(data)]) + bytes(data) + message),
        (2, page.SerializeToString()),
        (3, sealed[len(MAGIC) : -16]),
        (4, sealed),
        (5, b"d/f"),
        (6, b"lit://@trainer//data/x"),
        (7, b"trainer:a/b"),
        (8, b"[::1]:80"),
        (9, encode_live(record, "1 2 b p")),
        (10, b'{"name":"trainer","state":"running","instance_id":"i1"}'),
        (11, str(version).encode()),
    ]
    assert dataclasses.is_dataclass(record)
    return [bytes([number]) + body for number, body in inputs]


def fuzz(tmp_path, seconds, seed, *more):
    """Fuzz for so many seconds, or to another end before; return how many inputs were tried."""
    corpus = tmp_path / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, body in enumerate(seeds()):
        (corpus / str(number)).write_bytes(body)
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        "-rss_limit_mb=1500",
        "-timeout=30",
        "-max_len=4096",
        *more,
    ]
    done = subprocess.run(
        [sys.executable, FUZZ, *options, f"-artifact_prefix={tmp_path}/", str(corpus)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=seconds + 90,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return int(re.findall(r"Done (\d+) runs", done.stderr)[-1])


@pytest.mark.slow
def test_decoders_for_seconds(tmp_path):
    """No decoder raises what it does not tell of, in the first seconds."""
    # They are counted by inputs: a machine that is busy has few of those in three seconds.
    assert fuzz(tmp_path, 60, 1, "-runs=20000") > 1000


@pytest.mark.soak
def test_decoders_for_long(tmp_path, soak_seconds, tally):
    """Nor later."""
    seed = random.randrange(1, 2**31)
    print(f"seed {seed}")
    tally["fuzzed calls"] += fuzz(tmp_path, max(1, int(soak_seconds)), seed)
