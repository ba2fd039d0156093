"""A copied root reads its own files, and has nothing of its original's: neither Works, nor id, nor token."""

import errno
import os
import shutil
import subprocess
import sys

import pytest

import lit_storage
from lit_storage import Path, Security, SourceChanged
from lit_storage.sessions import environment
from lit_storage_core.registries import database
from lit_storage_core.security import secret
from lit_storage_core.system.machine import machine_id
from lit_storage_proto.errors import AccessDenied, RegistryUnavailable
from lit_storage_proto.registry import WorkState
from lit_storage_server.publishing.notes import noted
from tests.roots import copied, identity, leave, look_after, read


class TestCopied:
    """A root that was copied, and its original."""

    @pytest.mark.parametrize("how", ["cp -r", "cp -a", "rsync -a"])
    def test_it_reads_its_own_files(self, old, tmp_path, how):
        """Whatever becomes of those of the original."""
        if not shutil.which(how.split()[0]):
            pytest.skip("rsync is not installed")
        copy = copied(old, tmp_path / "copy", how)
        leave(old, "newer")
        assert (read(copy), read(old)) == ("original", "newer")
        shutil.rmtree(old)
        assert read(copy) == "original"

    def test_a_changed_file_is_an_error(self, old, tmp_path):
        """Its digests tell; the file of the original is not taken in its place."""
        copy = copied(old, tmp_path / "copy")
        (copy / "works" / "train" / "out" / "file").write_text("changed!")
        with pytest.raises(SourceChanged):
            read(copy)

    @pytest.mark.parametrize("name", ["file", "large"])
    def test_a_change_that_keeps_size_and_time(self, old, tmp_path, name):
        """A copy has other version tokens, so the bytes are compared and not the times."""
        copy = copied(old, tmp_path / "copy")
        path = copy / "works" / "train" / "out" / name
        before = path.stat()
        path.write_text("X" * before.st_size)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(SourceChanged):
            read(copy)

    def test_it_has_an_identity_of_its_own(self, old, tmp_path):
        """Machine id and token are new, and only the owner reads the token; the original keeps its own."""
        before, copy = identity(old), copied(old, tmp_path / "copy")
        read(copy)
        read(old)
        assert identity(old) == before
        assert not set(identity(copy)) & set(before)
        assert (copy / "token").stat().st_mode & 0o777 == 0o600

    def test_it_is_recognised_once(self, old, tmp_path):
        """From then on it is a root like any other, and may be moved and copied in its turn."""
        copy = copied(old, tmp_path / "copy")
        read(copy)
        first = identity(copy)
        moved = copy.rename(tmp_path / "moved")
        assert (read(moved), identity(moved)) == ("original", first)
        again = copied(moved, tmp_path / "again")
        assert (read(again), identity(again) != first) == ("original", True)

    @pytest.mark.slow
    def test_live_works_of_the_original(self, old, tmp_path, live):
        """They do not live in the copy, and go on in the original."""
        live(old, "lives")
        copy = copied(old, tmp_path / "copy")
        with lit_storage.connect(root=copy) as session:
            assert (session.registry.live(), session.registry.work("lives").state) == ([], WorkState.FAILED)
            assert not Path("lit://@lives/out").exists_remote()
        assert read(copy) == "original"
        with lit_storage.connect(root=old) as session:
            assert [record.name for record in session.registry.live()] == ["lives"]

    @pytest.mark.slow
    def test_both_have_a_work_of_one_name(self, old, tmp_path, live):
        """At the same time: the name is free in the copy."""
        live(old, text="in the original")
        copy = copied(old, tmp_path / "copy")
        live(copy, text="in the copy")
        for root, text in ((old, "in the original"), (copy, "in the copy")):
            with lit_storage.connect(root=root):
                path = Path("lit://@train/out/file")
                path.get(overwrite=True)
                assert path.read_text() == text

    @pytest.mark.slow
    def test_what_a_live_work_declared(self, old, tmp_path, live):
        """The copy publishes its own files at once, as of a killed Work; the original's Work goes on."""
        live(old, text="half way")
        copy = copied(old, tmp_path / "copy")
        (old / "works" / "train" / "out" / "file").write_text("later")
        manifests = sorted((old / "artifacts").rglob("*"))
        look_after(copy)
        assert (read(copy), noted(str(copy))) == ("half way", [])
        assert [left.name for left in noted(str(old))] == ["train"]
        assert sorted((old / "artifacts").rglob("*")) == manifests

    def test_a_machine_id_of_the_environment(self, tmp_path, monkeypatch):
        """It is that of both; the copy reads its own files all the same."""
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-7")
        leave(tmp_path / "old")
        copy = copied(tmp_path / "old", tmp_path / "copy")
        leave(tmp_path / "old", "newer")
        assert (read(copy), read(tmp_path / "old")) == ("original", "newer")

    @pytest.mark.slow
    def test_a_work_that_runs_again_in_the_copy(self, tmp_path, monkeypatch):
        """The tokens of the last version are not those of copies, though the machine id is the same."""
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-7")
        leave(tmp_path / "old")
        copy = copied(tmp_path / "old", tmp_path / "copy")
        path = copy / "works" / "train" / "out" / "file"
        before = path.stat()
        path.write_text("changed!")
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with lit_storage.join("train", root=copy) as session:
            session.declare(Path("lit://out"))
        with lit_storage.connect(root=copy):
            Path("lit://@train/out/file").get()
            assert Path("lit://@train/out/file").read_text() == "changed!"

    def test_a_machine_id_of_another_machine(self, old, tmp_path, monkeypatch):
        """The copy serves the machine on which it is opened first."""
        copy = copied(old, tmp_path / "copy")
        monkeypatch.setenv("LIT_STORAGE_MACHINE_ID", "node-8")
        assert read(copy) == "original"

    def test_a_token_of_the_environment(self, old, tmp_path, monkeypatch):
        """It is what the session has; the file of the copy is renewed all the same."""
        monkeypatch.setenv("LIT_STORAGE_TOKEN", "given")
        before, copy = identity(old), copied(old, tmp_path / "copy")
        assert (read(copy), identity(copy)[1] != before[1]) == ("original", True)

    def test_a_token_that_is_a_link(self, old, tmp_path):
        """The link is replaced, and the file that it names stays as it is."""
        (tmp_path / "secret").write_text("of many roots")
        (tmp_path / "secret").chmod(0o600)
        (old / "token").unlink()
        (old / "token").symlink_to(tmp_path / "secret")
        copy = copied(old, tmp_path / "copy")
        read(copy)
        assert ((tmp_path / "secret").read_text(), (copy / "token").is_symlink()) == ("of many roots", False)

    def test_a_store_that_was_named(self, tmp_path, monkeypatch):
        """It is not copied with the root, and both read it."""
        monkeypatch.setenv("LIT_STORAGE_ARTIFACTS", f"file://{tmp_path}/store")
        leave(tmp_path / "old")
        assert read(copied(tmp_path / "old", tmp_path / "copy")) == "original"

    @pytest.mark.slow
    def test_an_absolute_path(self, tmp_path):
        """It does not lie in the root, so both roots read it where it is."""
        (tmp_path / "data").write_text("data")
        with lit_storage.join("train", root=tmp_path / "old") as session:
            session.declare(Path(f"lit://{tmp_path}/data"))
        copy = copied(tmp_path / "old", tmp_path / "copy")
        for root in (tmp_path / "old", copy):
            with lit_storage.connect(root=root):
                path = Path(f"lit://@train/{tmp_path}/data")
                path.get(overwrite=True)
                assert path.read_text() == "data"

    @pytest.mark.slow
    def test_a_registry_beside_the_root(self, tmp_path):
        """It is not copied: the copy goes on with it, and nothing in it is dropped."""
        url = f"sqlite://{tmp_path}/registry.db"
        with lit_storage.join("train", root=tmp_path / "old", registry=url):
            copy = copied(tmp_path / "old", tmp_path / "copy")
            environment.open_root(str(copy), url, timeout_seconds=5)
            assert identity(copy) == identity(tmp_path / "old")

    @pytest.mark.slow
    def test_a_note_beside_a_registry_that_is_shared(self, tmp_path, live):
        """The copy publishes nothing in the name of the original's Work, whose record it would change."""
        url = f"sqlite://{tmp_path}/registry.db"
        with lit_storage.join("train", root=tmp_path / "old", registry=url) as session:
            session.declare(Path("lit://out"))
            copy = copied(tmp_path / "old", tmp_path / "copy")
            for _ in range(2):
                environment.open_root(str(copy), url, timeout_seconds=5)
                assert (noted(str(copy)), len(noted(str(tmp_path / "old")))) == ([], 1)

    def test_a_registry_that_is_no_file(self, tmp_path):
        """The file of the identity is the second witness then."""
        environment.open_root(str(tmp_path / "old"), "memory:", timeout_seconds=5)
        before = machine_id(str(tmp_path / "old"))
        moved = (tmp_path / "old").rename(tmp_path / "new")
        environment.open_root(str(moved), "memory:", timeout_seconds=5)
        assert machine_id(str(moved)) == before
        copy = copied(moved, tmp_path / "copy")
        environment.open_root(str(copy), "memory:", timeout_seconds=5)
        assert machine_id(str(copy)) != before

    def test_a_registry_that_was_removed(self, old):
        """As an error advises where it is damaged: a new registry alone does not make the root a copy."""
        before = identity(old)
        for path in old.glob("registry.db*"):
            path.unlink()
        leave(old, "again")
        assert (read(old), identity(old)) == ("again", before)

    def test_a_new_directory_around_it(self, old, tmp_path):
        """What a root holds was moved into another directory: the registry is the same, so it is no copy."""
        before = identity(old)
        (tmp_path / "new").mkdir()
        for path in old.iterdir():
            path.rename(tmp_path / "new" / path.name)
        assert (read(tmp_path / "new"), identity(tmp_path / "new")) == ("original", before)

    def test_a_damaged_registry(self, old, tmp_path):
        """Nothing of the copy is changed, and the sentence says what to do; after that it is recognised."""
        copy = copied(old, tmp_path / "copy")
        (copy / "registry.db").write_bytes(b"torn" * 4096)
        before = identity(copy)
        with pytest.raises(RegistryUnavailable, match="remove it together"):
            read(copy)
        assert identity(copy) == before
        for path in copy.glob("registry.db*"):
            path.unlink()
        with lit_storage.connect(root=copy):
            assert not set(identity(copy)) & set(before)

    def test_an_identity_of_a_newer_version(self, old):
        """It is refused, for this version cannot say whether the root is a copy."""
        (old / "root-identity").write_text('{"version": 2}')
        with pytest.raises(lit_storage.StorageError, match="newer lit-storage"):
            read(old)

    @pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"version": 1, "root_inode": "x"}'])
    def test_an_identity_that_is_none(self, old, text):
        """It is kept anew, and the root is as it was."""
        before = identity(old)
        (old / "root-identity").write_text(text)
        assert (read(old), identity(old)) == ("original", before)

    def test_a_registry_that_may_not_be_written(self, old, tmp_path, monkeypatch):
        """The copy is refused whole, for the original's Works would live in it."""
        copy = copied(old, tmp_path / "copy")
        before = identity(copy)
        monkeypatch.setattr(database, "permits", lambda path, _mode: not path.endswith("registry.db"))
        with pytest.raises(AccessDenied, match="must be writable"):
            read(copy)
        assert identity(copy) == before


OPEN = """
import sys
import lit_storage
input()
with lit_storage.connect(root=sys.argv[1]) as session:
    token = session.security.tokens()[0]
    print(session.home.machine_id, hash(token) and str(token)[:8], len(session.registry.live()), flush=True)
"""

KILLED = """
import os, signal, sys
import lit_storage
from lit_storage_server.publishing import copied_root
step = getattr(copied_root, sys.argv[2])
def die(*arguments, **options):
    if sys.argv[3] == "after":
        step(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(copied_root, sys.argv[2], die)
lit_storage.connect(root=sys.argv[1])
"""

STEPS = ("keep_former_id", "take_over", "end_all", "renew_machine_id", "renew_root_token", "keep_identity")


class TestFirstOpening:
    """The moment in which a copy becomes a root of its own."""

    @pytest.mark.slow
    def test_many_processes_at_once(self, old, tmp_path, live):
        """One of them does it, and all have what it made."""
        live(old)
        copy = copied(old, tmp_path / "copy")
        command = [sys.executable, "-c", OPEN, str(copy)]
        processes = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(6)]
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        seen = {process.communicate(timeout=60)[0] for process in processes}
        token = (copy / "token").read_text()[:8]
        assert seen == {f"{(copy / 'machine-id').read_text().strip()} {token} 0\n"}

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["before", "after"])
    @pytest.mark.parametrize("step", STEPS)
    def test_killed_at_a_step(self, old, tmp_path, live, step, moment):
        """The next process does what is left to do: nothing of the original's is used in between."""
        live(old)
        copy, before = copied(old, tmp_path / "copy"), identity(old)
        done = subprocess.run([sys.executable, "-c", KILLED, str(copy), step, moment])
        assert done.returncode == -9
        look_after(copy)
        assert (read(copy), identity(old)) == ("live", before)
        assert not set(identity(copy)) & set(before)
        with lit_storage.connect(root=copy) as session:
            assert session.registry.live() == []

    def test_a_disk_that_is_full(self, old, tmp_path, monkeypatch):
        """The error names the file, and the next process does it all."""

        def fail(path, *_arguments, **_options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

        copy, before = copied(old, tmp_path / "copy"), identity(old)
        with monkeypatch.context() as full:
            full.setattr(secret, "replace_file", fail)
            with pytest.raises(OSError, match="token"):
                read(copy)
        assert read(copy) == "original"
        assert not set(identity(copy)) & set(before)

    def test_nothing_stays_behind(self, old, tmp_path):
        """No temporary file is left in the copy."""
        copy = copied(old, tmp_path / "copy")
        read(copy)
        own = set(os.listdir(copy)) - {"registry.db-wal", "registry.db-shm"}
        assert own == {path.name for path in old.iterdir()} | {"connect"}


@pytest.mark.slow
def test_a_session_with_the_token_of_the_original(old, tmp_path, live):
    """A copy does not take it."""
    copy = copied(old, tmp_path / "copy")
    live(copy)
    with (
        lit_storage.connect(root=copy, security=Security(token=identity(old)[1])),
        pytest.raises(AccessDenied),
    ):
        Path("lit://@train/out").exists_remote()
