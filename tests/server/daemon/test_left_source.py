"""What a custodian hands out of what stopped Works left, and what it refuses."""

import dataclasses
import errno
import itertools
import os

import pytest

from lit_storage_client.fetch import fetch
from lit_storage_client.fetch.contents import contents
from lit_storage_client.origins import custodian_objects
from lit_storage_client.origins.origins import Origins
from lit_storage_client.peers.channels import Channels
from lit_storage_client.peers.remote import Remote
from lit_storage_core.artifacts.urls import in_place_url, open_store
from lit_storage_core.registries.memory import MemoryRegistry
from lit_storage_core.security.settings import Security
from lit_storage_proto.entry import Kind
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    InvalidURI,
    OriginUnavailable,
    PathNotFound,
    ProtocolViolation,
    RegistryUnavailable,
    SourceChanged,
)
from lit_storage_proto.limits import KIB, MIB, Limits
from lit_storage_proto.registry import LiveRecord, WorkRecord, WorkState
from lit_storage_proto.uri import Location
from lit_storage_server.daemon.left_source import LeftSource
from lit_storage_server.daemon.named_shares import NamedShares, NamedSource
from lit_storage_server.publishing.publish import publish
from lit_storage_server.rpc.server import PeerServer
from lit_storage_server.sources.range_stream import ByteRange
from lit_storage_server.sources.shares import Shares
from lit_storage_server.sources.tree_stream import TreeOptions

LIMITS = Limits(unary_seconds=10, progress_seconds=20, resume_seconds=0.1)
HERE, THERE = "machine-a", "machine-b"


class Machine:
    """The machine on which "train" ran, its custodian, and one that consumes what is there."""

    def __init__(self, tmp_path, kind):
        self.root = tmp_path / "a"
        self.work = self.root / "works" / "train"
        (self.work / "out" / "deep").mkdir(parents=True)
        (self.work / "out" / "a").write_bytes(b"a" * (3 * MIB) + b"end")
        (self.work / "out" / "deep" / "b").write_text("b")
        (self.work / "out" / "link").symlink_to("deep/b")
        (self.work / "private").write_text("nobody declared this")
        self.data = tmp_path / "declared"
        self.data.mkdir()
        (self.data / "x").write_text("x")
        self.url = in_place_url(str(self.root), HERE) if kind == "in-place" else f"file://{tmp_path}/store"
        self.registry = MemoryRegistry(str(tmp_path))
        self.registry.register(LiveRecord("train", "i1", "127.0.0.1:1", HERE))
        self.registry.unregister("train", "i1")
        self.registry.update_work(WorkRecord("train", "i1", WorkState.STOPPED, HERE, self.url))
        self.store = open_store(self.url, "train", limits=LIMITS, create=True)
        self.publish("out", str(self.data))
        self.source = LeftSource(str(self.root), HERE, self.registry, LIMITS)
        self.copies = tmp_path / "b"
        self.copies.mkdir()
        self.servers = []
        self.channels = Channels(Security(token="t"), LIMITS)
        self.remote = Remote(self.registry, self.channels, LIMITS)
        self.origins = Origins(self.remote, self.registry, THERE, LIMITS)

    def publish(self, *paths, follow_links=False):
        shares = Shares(str(self.work), name="train", follow_links=follow_links)
        version = self.store.next_version("i1")
        for path in paths:
            if path.startswith("/"):
                shares.declare(path)
            publish(self.store, shares, path, version, machine_id=HERE)
        shares.close()

    def serve(self, name="keeper", source=None, machine_id=HERE):
        named = NamedSource(NamedShares({}, name=name), LIMITS.chunk_bytes)
        left = source or self.source
        server = PeerServer(name, f"of {name}", named, security=Security(token="t"), limits=LIMITS, left=left)
        record = LiveRecord(name, f"of {name}", server.start(), machine_id, custodian=True)
        self.registry.register(record)
        self.servers.append(server)
        return server

    def at(self, path):
        return Location("train", path)

    def get(self, path, name="copy", **options):
        target = self.copies / name
        transfer = fetch(self.origins, self.at(path), root=None, target=str(target), **options)
        return target, transfer

    def close(self):
        self.origins.close()
        self.channels.close()
        self.source.close()
        for server in self.servers:
            server.stop()


@pytest.fixture(params=["in-place", "file"])
def kind(request):
    return request.param


@pytest.fixture
def machine(tmp_path, kind):
    made = Machine(tmp_path, kind)
    yield made
    made.close()


@pytest.fixture
def in_place(tmp_path):
    made = Machine(tmp_path, "in-place")
    yield made
    made.close()


@pytest.fixture
def in_store(tmp_path):
    made = Machine(tmp_path, "file")
    yield made
    made.close()


class TestFromAnotherMachine:
    def test_a_tree(self, machine):
        """It arrives as the Work left it, verified, links as links."""
        machine.serve()
        target, transfer = machine.get("out")
        assert (target / "a").read_bytes() == b"a" * (3 * MIB) + b"end"
        assert (target / "deep" / "b").read_text() == "b"
        assert os.readlink(target / "link") == "deep/b"
        assert (transfer.files, transfer.bytes) == (2, 3 * MIB + 4)

    def test_links_followed(self, machine):
        """A link that stays in what is declared is copied as what it means."""
        machine.serve()
        target, _ = machine.get("out", symlinks="follow")
        assert (target / "link").read_text() == "b"
        assert not (target / "link").is_symlink()

    @pytest.mark.parametrize("symlinks", [None, "keep", "follow"])
    def test_what_the_work_followed(self, machine, symlinks):
        """It is there as files, also from another share, whatever is asked for; the rest is named."""
        (machine.work / "out" / "far").symlink_to(machine.data / "x")
        (machine.work / "out" / "all").symlink_to(machine.data)
        (machine.work / "out" / "up").symlink_to("../private")
        (machine.work / "out" / "leaves").symlink_to(machine.root)
        machine.publish(str(machine.data), "out", follow_links=True)
        machine.serve()
        target, transfer = machine.get("out", symlinks=symlinks)
        for name, text in {"link": "b", "far": "x", "all/x": "x", "up": "nobody declared this"}.items():
            assert ((target / name).read_text(), (target / name).is_symlink()) == (text, False)
        assert transfer.skipped == ("leaves",)

    def test_directories_above_what_was_left(self, machine):
        """They are listed as far as the Work left something, and cannot be copied: they are not whole."""
        machine.publish("out/deep", "private")
        machine.serve()
        paths = ["", "out", "out/a", "out/deep", "out/deep/b", "out/link", "private"]
        assert sorted(entry.path for entry in machine.origins.list(machine.at(""))) == paths
        top = machine.origins.list(machine.at(""), recursive=False)
        assert [entry.path for entry in top] == ["", "out", "private"]
        above = machine.origins.list(machine.at(os.path.dirname(machine.data)))
        assert [entry.path for entry in above] == ["", "declared", "declared/x"]
        for path in ("none", "ou"):
            with pytest.raises(PathNotFound):
                machine.origins.list(machine.at(path))
        with pytest.raises(PathNotFound):
            machine.get("")

    def test_a_file_and_an_absolute_path(self, machine):
        """Each path by which the Work's files are known."""
        machine.serve()
        assert machine.get("out/deep/b")[0].read_text() == "b"
        assert machine.get(str(machine.data), "x")[0].joinpath("x").read_text() == "x"
        assert machine.origins.stat(machine.at(f"{machine.data}/x")).size == 1

    def test_it_is_described_and_listed(self, machine):
        """Exists, Stat and ListFiles, of what is there and of what is not."""
        machine.serve()
        origins = machine.origins
        assert [origins.exists(machine.at(path)) for path in ("out", "out/a", "out/none", "private")] == [
            True,
            True,
            False,
            False,
        ]
        listed = [entry.path for entry in origins.list(machine.at("out"), recursive=False)]
        assert (listed[0], sorted(listed)) == ("", ["", "a", "deep", "link"])
        assert "deep/b" in [entry.path for entry in origins.list(machine.at("out"))]
        with pytest.raises(PathNotFound, match=r"lit://@train/out/none.*the machine of 'keeper'"):
            origins.stat(machine.at("out/none"))

    @pytest.mark.parametrize(
        ("offset", "length"),
        [(0, 5), (3 * MIB - 1, None), (512 * KIB - 3, 6), (3 * MIB + 3, 4), (5 * MIB, 1)],
    )
    def test_a_part_of_a_file(self, machine, offset, length):
        """Across chunks, up to the end, and behind it."""
        machine.serve()
        runs = contents(machine.origins, machine.at("out/a"), offset=offset, length=length)
        data = b"a" * (3 * MIB) + b"end"
        end = None if length is None else offset + length
        assert b"".join(bytes(run) for run in runs) == data[offset:end]

    def test_its_versions_are_listed(self, machine):
        """With the same manifests as on the machine itself, which can only be read."""
        machine.serve()
        store = machine.origins.store("train")
        assert [kept.key for kept in store.versions()] == [kept.key for kept in machine.store.versions()]
        for kept in store.versions():
            assert store.manifest(kept) == machine.store.manifest(kept)
        with pytest.raises(AccessDenied, match="of 'keeper'.*run this command there"):
            store.remove(store.versions())
        assert machine.store.versions() != []

    def test_a_damaged_version_is_named(self, machine):
        """As it is where it lies: the one before it counts, or none."""
        machine.serve()
        newest = machine.store.versions()[0]
        path = f"{machine.store.objects.url.removeprefix('file://')}/{newest.key}"
        os.chmod(path, 0o600)
        with open(path, "r+b") as file:
            file.write(b"damage")
        with pytest.raises(IntegrityError):
            machine.origins.store("train").manifest(newest)

    @pytest.mark.root
    def test_a_manifest_of_another_user(self, in_place):
        """Who may write into the root does not have files handed out that only the custodian may read."""
        in_place.serve()
        for kept in in_place.store.versions():
            os.chown(f"{in_place.store.objects.url.removeprefix('file://')}/{kept.key}", 65534, 65534)
        with pytest.raises(IntegrityError, match="was written by user 65534"):
            in_place.origins.stat(in_place.at("out"))
        with pytest.raises(IntegrityError, match="was written by user 65534"):
            in_place.get("out")
        assert in_place.store.covering("out").path == "out"  # who reads by own right is not concerned

    def test_what_lives_is_asked_itself(self, machine):
        """A custodian is no way around a live Work."""
        machine.serve()
        machine.registry.register(LiveRecord("train", "i2", "127.0.0.1:1", HERE))
        with pytest.raises(OriginUnavailable, match="'train' is live by the registry"):
            machine.origins.stat(machine.at("out"))

    def test_a_get_goes_on_from_what_it_has(self, machine):
        """What is held by the version that is kept is not sent again."""
        from lit_storage_proto.tree_options import Held, TreeOptions

        machine.serve()
        entry = machine.origins.stat(machine.at("out/a"))
        held = [Held("", entry.version, [(0, 3 * MIB)])]
        with machine.origins.stream(machine.at("out/a"), TreeOptions(held=held)) as frames:
            sent = sum(len(chunk.data) for frame in frames for chunk in frame.chunks)
        assert sent == 3

    def test_a_file_that_was_changed_since(self, in_place):
        """In place no copy is kept: it is never taken for what the Work left."""
        in_place.serve()
        (in_place.work / "out" / "a").write_text("other")
        with pytest.raises(SourceChanged, match="was changed after 'train' had stopped"):
            in_place.get("out")
        assert not (in_place.copies / "copy").exists()


class TestWhereItLies:
    """What a peer reads of errors names no place of the machine."""

    @pytest.fixture
    def told(self, machine, tmp_path):
        """Ask in each way, and return what was told when it failed."""

        def ask(name="train", path="out/a"):
            request = f"@{name}/{path}"
            told = []
            for asked in (
                lambda: machine.source.stat(request),
                lambda: list(machine.source.entries(request, recursive=True)),
                lambda: list(machine.source.ranges(request, [ByteRange("", 0, None, b"")])),
                lambda: list(machine.source.tree(request, TreeOptions()).frames()),
            ):
                with pytest.raises(OSError, match=name) as caught:
                    asked()
                told.append(str(caught.value))
                assert str(tmp_path) not in str(caught.value.filename)
            assert [each for each in told if str(tmp_path) in each] == []
            return told

        return ask

    def test_nothing_is_left(self, told):
        """Of a Work that nobody knows, and of a path that is none of its own."""
        assert "by the registry of this custodian" in told("nobody")[0]
        assert "what it left at the custodian's store does not hold it" in told(path="none")[0]

    @pytest.mark.parametrize("failed", ["open", "scandir"])
    def test_the_disk_fails(self, machine, told, monkeypatch, failed):
        """The error is the system's, of what the Work left."""

        def fail(path=".", *args, **options):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

        monkeypatch.setattr(os, failed, fail)
        assert set(told()) == {"[Errno 5] Input/output error: \"what 'train' left\""}

    def test_the_store_is_damaged(self, machine, told):
        """A manifest that cannot be read is named by its key."""
        directory = machine.store.objects.url.removeprefix("file://")
        for kept in machine.store.versions():
            os.chmod(f"{directory}/{kept.key}", 0o600)
            with open(f"{directory}/{kept.key}", "r+b") as file:
                file.write(b"damage")
        assert "in the custodian's store" in told()[0]

    def test_the_registry_is_out_of_reach(self, machine, told, monkeypatch, tmp_path):
        """That it is, and not where it is."""

        def fail(name):
            raise RegistryUnavailable(f"sqlite://{tmp_path}/registry.db is locked")

        monkeypatch.setattr(machine.registry, "work", fail)
        assert set(told()) == {"this custodian cannot ask its registry for 'train' now"}


class Lying(LeftSource):
    """A custodian that lists manifests without end, or as smaller than they are."""

    endless = False

    def entries(self, path, *, recursive):
        listed = [understated(entry) for entry in super().entries(path, recursive=recursive)]
        yield from listed
        for number in itertools.count() if self.endless else ():
            yield dataclasses.replace(listed[-1], path=f"{listed[-1].path}{number}")


def understated(entry):
    return dataclasses.replace(entry, size=1) if entry.kind is Kind.FILE else entry


class TestACustodianThatLies:
    @pytest.fixture
    def lying(self, in_place):
        source = Lying(str(in_place.root), HERE, in_place.registry, LIMITS)
        in_place.serve(source=source)
        yield source
        source.close()

    def test_a_manifest_larger_than_it_was_listed(self, in_place, lying):
        """It is read no further, and counts as damaged."""
        with pytest.raises(IntegrityError, match="is cut short or damaged"):
            in_place.origins.store("train").covering("out")

    def test_a_list_without_end(self, in_place, lying, monkeypatch):
        """It is read up to what any Work can leave."""
        lying.endless = True
        monkeypatch.setattr(custodian_objects, "_MOST_LISTED_BYTES", MIB)
        with pytest.raises(ProtocolViolation, match="'keeper' lists more of what 'train' left than any Work"):
            in_place.origins.store("train").versions()


class TestWhoIsAsked:
    @pytest.fixture
    def readings(self, in_place, monkeypatch):
        """Has an element for each time that all live names were read."""
        readings, live = [], in_place.registry.live

        def counted():
            readings.append(None)
            return live()

        monkeypatch.setattr(in_place.registry, "live", counted)
        return readings

    def test_many_questions(self, in_place, readings):
        """The registry is asked once who the custodian is, not for each of them."""
        in_place.serve()
        for _ in range(10):
            assert in_place.origins.exists(in_place.at("out"))
            assert in_place.origins.stat(in_place.at("out")).kind is Kind.DIRECTORY
        assert len(readings) == 1

    def test_another_custodian_took_over(self, in_place, readings):
        """It is asked at once, although the former one was remembered."""
        first = in_place.serve("first")
        assert in_place.origins.exists(in_place.at("out"))
        first.stop()
        in_place.registry.unregister("first", "of first")
        in_place.serve("second")
        assert in_place.origins.exists(in_place.at("out"))
        assert in_place.origins.exists(in_place.at("out"))
        assert len(readings) == 2

    def test_one_that_was_remembered_for_long(self, in_place, readings):
        """It is asked for anew."""
        in_place.serve()
        in_place.origins = Origins(
            in_place.remote, in_place.registry, THERE, dataclasses.replace(LIMITS, watch_seconds=0)
        )
        for _ in range(2):
            assert in_place.origins.exists(in_place.at("out"))
        assert len(readings) == 2


class TestWithoutCustodian:
    def test_nobody_to_ask(self, in_place):
        """What is in place elsewhere is unknown, and what to do is said; it is no "no"."""
        for ask in (in_place.origins.exists, in_place.origins.stat, in_place.get):
            with pytest.raises(
                OriginUnavailable, match=r"on another machine \(machine-a\).*lit-storage serve"
            ):
                ask("out" if ask == in_place.get else in_place.at("out"))

    def test_one_that_does_not_answer(self, machine):
        """Registered but silent is an error too."""
        machine.serve().stop()
        with pytest.raises(OriginUnavailable, match="keeper"):
            machine.origins.exists(machine.at("out"))

    def test_one_of_another_machine(self, in_place):
        """It is not asked."""
        in_place.serve(machine_id="machine-c")
        with pytest.raises(OriginUnavailable, match="no custodian runs"):
            in_place.origins.stat(in_place.at("out"))

    def test_one_of_another_root(self, in_place, tmp_path):
        """Two roots of one machine each have theirs; whichever is asked first, the right one answers."""
        other = LeftSource(str(tmp_path / "other"), HERE, in_place.registry, LIMITS)
        in_place.serve("a-first", other)
        with pytest.raises(OriginUnavailable, match="another root"):
            in_place.origins.exists(in_place.at("out"))
        in_place.serve("keeper")
        assert in_place.origins.exists(in_place.at("out"))
        assert in_place.origins.store("train").versions() != []

    def test_a_directory_that_both_see(self, in_store):
        """What it holds of that machine is what the Work left."""
        assert in_store.get("out/deep/b")[0].read_text() == "b"

    def test_what_a_directory_does_not_hold(self, in_store):
        """It need not be the one of the other machine, so it is no evidence of absence."""
        with pytest.raises(OriginUnavailable, match="nothing shows that the directory of this name here"):
            in_store.origins.exists(in_store.at("out/none"))

    def test_a_directory_of_the_same_name_with_what_another_machine_left(self, in_store):
        """It is never taken for that of the Work."""
        record = dataclasses.replace(in_store.registry.work("train"), machine_id="machine-c")
        in_store.registry.update_work(record)
        with pytest.raises(OriginUnavailable, match=r"of another machine \(machine-c\)"):
            in_store.origins.stat(in_store.at("out"))


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "error"),
        [
            ("@", InvalidURI),
            ("@/x", InvalidURI),
            ("@../x", InvalidURI),
            ("@a b/x", InvalidURI),
            ("@-/x", InvalidURI),
            ("@" + "a" * 129, InvalidURI),
            ("@train/../../etc/passwd", ProtocolViolation),
            ("@train/out/../../x", ProtocolViolation),
            ("@train//etc", ProtocolViolation),
            ("@train/./out", ProtocolViolation),
            ("@train/out/\0", ProtocolViolation),
            ("@train/out/", ProtocolViolation),
            ("@nobody/x", PathNotFound),
            ("@train/private", PathNotFound),
            ("@train/@/etc/passwd", PathNotFound),
            ("@train/@other/x", PathNotFound),
            ("@train/.staging", PathNotFound),
            ("@train/out/link/x", PathNotFound),
            ("@train/@manifests/../data", ProtocolViolation),
            ("@train/@manifests/none", PathNotFound),
            ("@train/@manifestsx", PathNotFound),
        ],
    )
    def test_paths(self, machine, path, error):
        """Each is a typed error, whichever call asks."""
        from lit_storage_server.sources.tree_stream import TreeOptions

        for ask in (
            machine.source.stat,
            lambda path: list(machine.source.entries(path, recursive=True)),
            lambda path: list(machine.source.ranges(path, [ByteRange("", 0, None, b"")])),
            lambda path: list(machine.source.tree(path, TreeOptions()).frames()),
        ):
            with pytest.raises(error):
                ask(path)

    @pytest.mark.parametrize("path", ["@train", "@train/@"])
    def test_what_was_not_left_as_a_whole(self, machine, path):
        """A directory above what was left can be listed, and nothing else."""
        assert {entry.path.split("/")[0] for entry in machine.source.entries(path, recursive=False)} > {""}
        for ask in (
            machine.source.stat,
            lambda path: list(machine.source.ranges(path, [ByteRange("", 0, None, b"")])),
            lambda path: list(machine.source.tree(path, TreeOptions()).frames()),
        ):
            with pytest.raises(PathNotFound):
                ask(path)

    def test_a_range_cannot_lead_out(self, machine):
        """The files of a request are below its path."""
        for name in ("../../private", "/etc/passwd", "..", "deep/../../../private"):
            with pytest.raises(ProtocolViolation):
                list(machine.source.ranges("@train/out", [ByteRange(name, 0, None, b"")]))

    def test_a_range_of_another_version(self, machine):
        """It is told, not sent."""
        with pytest.raises(SourceChanged):
            list(machine.source.ranges("@train/out/a", [ByteRange("", 0, 1, b"other")]))

    def test_a_range_that_is_not_there(self, machine):
        """Behind the end, and of a directory."""
        for path, offset in (("@train/out/a", 4 * MIB), ("@train/out", 0)):
            with pytest.raises(ProtocolViolation):
                list(machine.source.ranges(path, [ByteRange("", offset, 1, b"")]))

    @pytest.mark.parametrize(
        ("url", "machine_id", "error"),
        [
            ("in-place://machine-b/x/artifacts", HERE, OriginUnavailable),
            ("in-place://machine-a/x/artifacts", HERE, OriginUnavailable),
            ("file:///somewhere", THERE, OriginUnavailable),
            ("s3://bucket/x", HERE, AccessDenied),
            ("memory://x", HERE, AccessDenied),
            ("nonsense", HERE, AccessDenied),
        ],
    )
    def test_stores_that_are_not_this_machines(self, machine, url, machine_id, error):
        """Whatever the registry says, nothing is fetched with this machine's rights."""
        work = dataclasses.replace(machine.registry.work("train"), artifacts_url=url, machine_id=machine_id)
        machine.registry.update_work(work)
        with pytest.raises(error):
            machine.source.stat("@train/out")

    def test_a_manifest_that_leads_elsewhere(self, in_store, tmp_path):
        """One in a directory cannot have files read that lie in place elsewhere."""
        private = tmp_path / "private"
        (private / "out").mkdir(parents=True)
        (private / "out" / "key").write_text("secret")
        forged = open_store(in_store.url, "train", limits=LIMITS)
        forged.in_place = str(private)
        shares = Shares(str(private), name="train")
        publish(forged, shares, "out", forged.next_version("i9"), machine_id=HERE)
        shares.close()
        with pytest.raises((PathNotFound, IntegrityError)):
            in_store.source.stat("@train/out/key")

    def test_a_file_that_became_a_link_out(self, in_place, tmp_path):
        """It is not followed out of what the Work declared."""
        (tmp_path / "secret").write_text("secret")
        (in_place.work / "out" / "a").unlink()
        (in_place.work / "out" / "a").symlink_to(tmp_path / "secret")
        with pytest.raises(SourceChanged):
            list(in_place.source.ranges("@train/out/a", [ByteRange("", 0, None, b"")]))

    def test_another_server_refuses_reserved_names(self, machine):
        """Only a custodian hands out what others left."""
        named = NamedSource(NamedShares({}, name="plain"), LIMITS.chunk_bytes)
        with pytest.raises(AccessDenied):
            named.stat("@train/out")
