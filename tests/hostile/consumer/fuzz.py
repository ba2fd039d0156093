"""Feeds the decoders what libFuzzer makes up: run by `test_fuzz.py` with the arguments of libFuzzer.

A decoder may raise the errors that it tells of, and no others. The first byte chooses the decoder.
"""

import os
import sys

import atheris

with atheris.instrument_imports(include=["lit_storage_proto", "lit_storage_core", "lit_storage_client"]):
    from lit_storage_client.fetch.plan import Plan
    from lit_storage_client.fetch.verify import Verifier
    from lit_storage_client.peers import entries
    from lit_storage_core.registries.etcd import records
    from lit_storage_core.system.names import check_path, printable, shown
    from lit_storage_proto import artifact, endpoint, entry, frame_codec, manifest_codec, uri

from google.protobuf.message import DecodeError

from lit_storage_proto.digest import chunk_digest
from lit_storage_proto.errors import IntegrityError, InvalidURI, ProtocolViolation, RegistryUnavailable
from lit_storage_proto.v1 import path_storage_pb2 as pb


def frame(data):
    """Take a frame as a get does, but for the disk."""
    plan, verifier = Plan(), Verifier()
    plan.add(entry.Entry("", entry.Kind.DIRECTORY))
    verifier.announce(entry.Entry("", entry.Kind.DIRECTORY))
    told = frame_codec.decode_frame(data)
    if told.round:
        plan.begin_round(told.round)
    for each in told.entries:
        plan.add(each)
        verifier.replace(plan.take_gone())
        verifier.announce(each)
    for chunk in told.chunks:
        verifier.accept(chunk)
    for pack in told.packs:
        plan.names_of(pack)
        verifier.accept_pack(pack)
    plan.links()
    verifier.finish(told.summary)


def detached(data):
    frame_codec.decode_detached(data[1 + data[0] :], data[1 : 1 + data[0]])


def listed(data):
    listing = entries.Listing(recursive=True)
    for message in pb.ListFilesResponse.FromString(data).entries:
        listing.check(entry.from_wire(message))


def manifest(data):
    sealed = manifest_codec.MAGIC + data
    manifest_codec.decode_manifest(sealed + chunk_digest(sealed), where="somewhere")


def bare_manifest(data):
    manifest_codec.decode_manifest(data, where="somewhere")


def name(data):
    text = os.fsdecode(data)
    assert printable(text).isprintable()
    assert shown(text).isprintable()
    check_path(text)


def location(data):
    text = os.fsdecode(data)
    assert uri.parse(str(uri.parse(text))) == uri.parse(text)


def remote(data):
    uri.parse_remote(os.fsdecode(data))


def address(data):
    endpoint.split_address(os.fsdecode(data))


def live(data):
    records.decode_live("trainer", data)


def work(data):
    records.decode_work("trainer", data)


def key(data):
    text = os.fsdecode(data)
    artifact.key_version(text)
    artifact.Version.parse(text)
    artifact.is_unit(text)


TARGETS = [
    (frame, (ProtocolViolation, IntegrityError)),
    (detached, ProtocolViolation),
    (listed, (ProtocolViolation, DecodeError)),
    (manifest, (IntegrityError, ProtocolViolation)),
    (bare_manifest, (IntegrityError, ProtocolViolation)),
    (name, ProtocolViolation),
    (location, InvalidURI),
    (remote, InvalidURI),
    (address, InvalidURI),
    (live, RegistryUnavailable),
    (work, RegistryUnavailable),
    (key, ()),
]


def one(data):
    if len(data) < 2:
        return
    target, allowed = TARGETS[data[0] % len(TARGETS)]
    try:
        target(data[1:])
    except allowed:
        pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
