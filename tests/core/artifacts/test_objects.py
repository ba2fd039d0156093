"""What each adapter of the Objects port promises, on a disk, in memory and on servers of S3."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest

from lit_storage_core.artifacts import fsspec_objects
from lit_storage_core.artifacts.fsspec_objects import FsspecObjects
from lit_storage_core.artifacts.local_objects import LocalObjects
from lit_storage_core.artifacts.urls import open_store
from lit_storage_proto.errors import (
    AccessDenied,
    IntegrityError,
    InvalidURI,
    OriginUnavailable,
    TransferTimeout,
)
from lit_storage_proto.limits import Limits


def fsspec_at(url, seconds=20.0):
    return FsspecObjects(url, seconds=seconds, requests=4)


@pytest.fixture(params=["disk", "memory", "rclone", "moto"])
def objects(request, tmp_path, s3):
    if request.param == "disk":
        return LocalObjects(str(tmp_path / "store"), create=True)
    return fsspec_at(f"memory://{tmp_path}" if request.param == "memory" else s3(request.param)[1])


class TestPort:
    @pytest.mark.slow
    def test_what_was_put_is_read(self, objects):
        """Whole, and in parts."""
        objects.put("data/a/1", b"0123456789")
        assert objects.read("data/a/1") == b"0123456789"
        assert objects.read("data/a/1", 2, 3) == b"234"
        assert objects.read("data/a/1", 2, 0) == b""
        assert objects.read("data/a/1", 7) == b"789"

    @pytest.mark.slow
    def test_a_part_behind_the_end_is_damage(self, objects):
        """An object that is shorter than it should be is never read as if it were whole."""
        objects.put("data/a/1", b"0123456789")
        for start, size in ((8, 5), (20, 5)):
            with pytest.raises(IntegrityError, match="shorter"):
                objects.read("data/a/1", start, size)

    @pytest.mark.slow
    def test_nothing_there(self, objects):
        """An object that is not there is FileNotFoundError: the store has answered."""
        objects.put("data/a/1", b"1")
        for key in ("data/a/2", "data/b/1"):
            with pytest.raises(FileNotFoundError):
                objects.read(key, 0, 1)

    def test_listing(self, objects):
        """All keys below a prefix, with sizes and times; not those that only begin alike."""
        for key in ("m/a/1", "m/a/2", "m/b/1", "mm/1"):
            objects.put(key, b"12345")
        found = objects.list("m")
        assert [each.key for each in found] == ["m/a/1", "m/a/2", "m/b/1"]
        assert {each.size for each in found} == {5}
        assert all(abs(each.modified - time.time()) < 3600 for each in found)
        assert objects.list("nothing") == []

    @pytest.mark.slow
    def test_removing(self, objects):
        """What is removed is gone, and what was not there is passed over."""
        objects.put("a/1", b"1")
        objects.put("a/2", b"1")
        objects.remove(["a/1", "a/none"])
        assert [each.key for each in objects.list("a")] == ["a/2"]
        objects.remove([])

    @pytest.mark.slow
    def test_many_threads(self, objects, request):
        """Any thread may use it."""
        numbers = list(range(16))
        if request.node.callspec.params["objects"] == "rclone":
            # It fails some puts into a directory that it makes for another one at the same time, and may end
            # the answer to one of them too early, so that nobody hears of it (1.75.2).
            number = numbers.pop()
            objects.put(f"t/{number}", b"%d" % number)
        threads = [threading.Thread(target=objects.put, args=(f"t/{n}", b"%d" % n)) for n in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [objects.read(each.key) for each in objects.list("t")] == [
            each.key[2:].encode() for each in objects.list("t")
        ]
        assert len(objects.list("t")) == 16


@pytest.mark.parametrize("kind", ["disk", "memory", "moto"])
def test_an_object_is_never_written_twice(kind, tmp_path, s3):
    """Where the store can tell, a second put is refused and the first one stays."""
    if kind == "disk":
        objects = LocalObjects(str(tmp_path / "store"), create=True)
    else:
        objects = fsspec_at(f"memory://{tmp_path}" if kind == "memory" else s3(kind)[1])
    objects.put("a/1", b"first")
    with pytest.raises(FileExistsError):
        objects.put("a/1", b"second")
    assert objects.read("a/1") == b"first"


class TestDisk:
    def test_nothing_half_written_has_a_name(self, tmp_path, monkeypatch):
        """Where a write fails, as on a full disk, no object and no temporary file is left."""
        objects = LocalObjects(str(tmp_path / "store"), create=True)

        def full(fd):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError) as caught:
            objects.put("a/1", b"1")
        assert caught.value.errno == errno.ENOSPC
        monkeypatch.undo()
        assert objects.list("a") == []

    def test_a_store_that_is_gone_is_not_empty(self, tmp_path):
        """A reader whose disk is not mounted is told so."""
        objects = LocalObjects(str(tmp_path / "nowhere"))
        with pytest.raises(OriginUnavailable, match="is its disk mounted"):
            objects.list("a")

    def test_empty_directories_go_with_their_last_object(self, tmp_path):
        """Removing leaves no skeleton."""
        objects = LocalObjects(str(tmp_path / "store"), create=True)
        objects.put("a/b/c", b"1")
        objects.remove(["a/b/c"])
        assert os.listdir(tmp_path) == [] or os.listdir(tmp_path / "store") == []

    def test_without_hard_links(self, tmp_path, monkeypatch):
        """On a file system without them an object is renamed into place, and still never replaced."""

        def refuse(*_):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        objects = LocalObjects(str(tmp_path / "store"), create=True)
        objects.put("a/1", b"first")
        with pytest.raises(FileExistsError):
            objects.put("a/1", b"second")
        assert objects.read("a/1") == b"first"

    def test_a_link_in_the_store_is_not_followed(self, tmp_path):
        """An object that was replaced by a symbolic link is not read through it."""
        objects = LocalObjects(str(tmp_path / "store"), create=True)
        objects.put("a/1", b"1")
        (tmp_path / "store/a/1").unlink()
        (tmp_path / "store/a/1").symlink_to("/etc/passwd")
        with pytest.raises(OSError):
            objects.read("a/1")

    @pytest.mark.root
    def test_no_permission(self, as_nobody, public_directory):
        """A store of another user is AccessDenied, for writing and for reading."""
        os.mkdir(f"{public_directory}/store", 0o700)
        said = as_nobody(
            """
            from lit_storage_core.artifacts.local_objects import LocalObjects
            from lit_storage_proto.errors import AccessDenied
            """,
            """
            objects = LocalObjects(sys.argv[1], create=True)
            for call in (lambda: objects.put("a/1", b"1"), lambda: objects.list("a")):
                try:
                    call()
                except AccessDenied as error:
                    print("denied", end=" ")
            """,
            f"{public_directory}/store",
        )
        assert said in ("denied denied", "denied")


class TestS3:
    @pytest.mark.slow
    def test_a_bucket_that_is_none_is_unknown(self, s3):
        """It is OriginUnavailable, whatever is asked of it, and never an empty store."""
        s3("rclone")
        objects = fsspec_at("s3://no-such-bucket/prefix")
        for call in (
            lambda: objects.list("a"),
            lambda: objects.put("a/1", b"1"),
            lambda: objects.read("a/1"),
        ):
            with pytest.raises(OriginUnavailable, match="bucket does not exist"):
                call()

    @pytest.mark.slow
    @pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
    def test_wrong_credentials_are_refused(self, s3, monkeypatch, variable):
        """They are AccessDenied, which says what to look at and not what it was."""
        _, url = s3("rclone")
        monkeypatch.setenv(variable, "something-wrong")
        for call in (lambda o: o.list("a"), lambda o: o.put("a/1", b"1")):
            with pytest.raises(AccessDenied, match="check its credentials") as caught:
                call(fsspec_at(url))
            assert "something-wrong" not in str(caught.value)

    def test_no_credentials(self, s3, monkeypatch, tmp_path):
        """None at all are AccessDenied too."""
        _, url = s3("rclone")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(variable)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(AccessDenied, match="credentials"):
            fsspec_at(url).put("a/1", b"1")

    @pytest.mark.slow
    def test_a_server_that_does_not_listen(self, s3, monkeypatch):
        """It is OriginUnavailable, soon."""
        _, url = s3("rclone")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        began = time.monotonic()
        with pytest.raises(OriginUnavailable, match="cannot be used"):
            fsspec_at(url).list("a")
        assert time.monotonic() - began < 20

    @pytest.mark.slow
    def test_a_server_that_never_answers(self, s3, monkeypatch):
        """It is TransferTimeout, within the seconds that were given."""
        import socket

        _, url = s3("rclone")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            began = time.monotonic()
            with pytest.raises(TransferTimeout, match="gave no answer for 1 s"):
                fsspec_at(url, seconds=1.0).list("a")
            assert time.monotonic() - began < 20


class TestInstalled:
    @pytest.mark.slow
    def test_what_is_not_installed_says_what_to_install(self):
        """Without s3fs, s3:// names the extra."""
        code = (
            "import sys; sys.modules['s3fs'] = None\n"
            "from lit_storage_core.artifacts.urls import check_store\n"
            "check_store('s3://bucket/x')"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "InvalidURI" in done.stderr
        assert "pip install 'lit-storage[s3]'" in done.stderr

    def test_without_fsspec(self, monkeypatch):
        """Without fsspec too; a store on a disk needs neither."""
        monkeypatch.setitem(sys.modules, "fsspec", None)
        with pytest.raises(InvalidURI, match="not installed"):
            open_store("s3://bucket/x", "train", limits=Limits())
        open_store("file:///x", "train", limits=Limits())

    @pytest.mark.slow
    def test_the_core_does_not_load_fsspec(self):
        """Nobody pays for a store that is not used."""
        code = (
            "import sys, lit_storage; print([m for m in ('fsspec', 's3fs', 'botocore') if m in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


@pytest.mark.parametrize("refusal", [NotImplementedError(), OSError(errno.ENOSYS, "not implemented")])
def test_file_systems_without_exclusive_writes(tmp_path, monkeypatch, refusal):
    """Where fsspec, or the server, cannot write exclusively, what is there is looked for first."""
    objects = fsspec_at(f"memory://{tmp_path}")
    write = type(objects._files).pipe_file

    def plain(self, path, value, mode="overwrite", **options):
        if mode == "create":
            raise refusal
        return write(self, path, value, **options)

    monkeypatch.setattr(type(objects._files), "pipe_file", plain)
    objects.put("a/1", b"first")
    with pytest.raises(FileExistsError):
        objects.put("a/1", b"second")
    assert fsspec_objects._modified({}) == 0.0
