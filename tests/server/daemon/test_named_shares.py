"""Directories that a daemon shares by names: what may be shared, and what a path of a request means."""

import os
import subprocess

import pytest

from lit_storage_proto.errors import AccessDenied, InvalidConfig, PathNotFound, ProtocolViolation
from lit_storage_server.daemon.named_shares import NamedShares, NamedSource, check_shares
from lit_storage_server.sources.tree_stream import TreeOptions


@pytest.fixture
def data(tmp_path):
    """A directory with sub/file, and beside it one that nobody shares."""
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "file").write_text("content")
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("secret")
    return tmp_path / "data"


@pytest.fixture
def shares(data, tmp_path):
    (tmp_path / "models").mkdir()
    return NamedShares(
        check_shares({"data": str(data), "models": str(tmp_path / "models")}, secret=()), name="store"
    )


@pytest.fixture
def source(shares):
    return NamedSource(shares, 1024)


class TestCheck:
    def refused(self, match, shares, **options):
        with pytest.raises(InvalidConfig, match=match):
            check_shares({name: str(path) for name, path in shares.items()}, **options)

    def test_what_is_not_there(self, tmp_path):
        """It is named, with what to do."""
        self.refused(
            r"share 'a' cannot be used: .*/none: No such file.*mount its disk", {"a": tmp_path / "none"}
        )

    def test_what_is_no_directory(self, data):
        """A file is refused."""
        self.refused("share 'a' is no directory", {"a": data / "sub" / "file"})

    def test_the_whole_machine(self):
        """ "/" is refused, however it is written."""
        self.refused("'/', which holds all of this machine", {"a": "/"})
        self.refused("'/', which holds all of this machine", {"a": "//"})
        self.refused("'/', which holds all of this machine", {"a": "/tmp/.."})

    def test_a_link(self, data, tmp_path):
        """A share that is a link is refused with where it leads to."""
        (tmp_path / "link").symlink_to(data)
        self.refused(
            rf"share 'a' is a symbolic link, .*/link, that leads to {data}; share that",
            {"a": tmp_path / "link"},
        )

    def test_a_link_on_the_way(self, data, tmp_path):
        """The operator's own path may lead through links; the directory itself is what is shared."""
        (tmp_path / "link").symlink_to(tmp_path)
        assert check_shares({"a": str(tmp_path / "link" / "data")}) == {"a": str(data)}

    @pytest.mark.parametrize("name", ["", "a/b", "@a", ".", "..", "a b", "é", "-a", "x" * 129])
    def test_odd_names(self, data, name):
        """A name that could be taken for something else is refused."""
        self.refused("cannot name a share", {name: data})

    def test_relative(self):
        """A relative path would depend on where the daemon was started."""
        self.refused("must be an absolute path", {"a": "data"})

    def test_one_within_the_other(self, data):
        """Both are named, whichever comes first; a name that only begins like the other is none."""
        self.refused("'a' .* and 'b' .* lead to the same files", {"a": data, "b": data / "sub"})
        self.refused("'b' .* and 'a' .* lead to the same files", {"b": data / "sub", "a": data})
        self.refused("lead to the same files", {"a": data, "b": data})
        (data.parent / "data2").mkdir()
        assert len(check_shares({"a": str(data), "b": str(data.parent / "data2")})) == 2

    def test_one_within_the_other_through_a_link(self, data, tmp_path):
        """What counts is where they lead, not how they are written."""
        (tmp_path / "link").symlink_to(data)
        self.refused("lead to the same files", {"a": data, "b": tmp_path / "link" / "sub"})

    def test_what_the_daemon_keeps_secret(self, data, tmp_path):
        """A share may neither hold a secret, nor lie in a directory of them."""
        self.refused(
            "which others must not read", {"a": tmp_path}, secret=[str(tmp_path / "private" / "key")]
        )
        self.refused("which others must not read", {"a": data / "sub"}, secret=[str(data)])

    @pytest.mark.slow
    @pytest.mark.root
    def test_one_within_the_other_through_a_mount(self, data, tmp_path):
        """A bind mount of a part of a share is the same files under another path."""
        (tmp_path / "bound").mkdir()
        script = f"""
            mount --bind {data}/sub {tmp_path}/bound
            {os.sys.executable} -c "
from lit_storage_server.daemon.named_shares import check_shares
check_shares({{'a': '{data}', 'b': '{tmp_path}/bound'}})"
        """
        done = subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True)
        assert "lead to the same files" in done.stderr
        script = f"""
            mkdir {data}/inner
            mount --bind {tmp_path}/private {data}/inner
            {os.sys.executable} -c "
from lit_storage_server.daemon.named_shares import check_shares
check_shares({{'a': '{data}', 'b': '{tmp_path}/private'}})"
        """
        done = subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True)
        assert "lead to the same files" in done.stderr

    def test_a_directory_that_cannot_be_read(self, public_directory, as_nobody):
        """It is refused at the start, not at the first request."""
        os.mkdir(f"{public_directory}/closed", 0o700)
        code = """
        try: check_shares({"a": sys.argv[1]})
        except InvalidConfig as error: print(error)
        """
        imports = """
        from lit_storage_server.daemon.named_shares import check_shares
        from lit_storage_proto.errors import InvalidConfig
        """
        if os.geteuid() != 0:
            pytest.skip("needs uid 0, to drop to another user id")
        assert "cannot be read by user 65534" in as_nobody(imports, code, f"{public_directory}/closed")


class TestOpen:
    def test_a_path_is_one_of_a_share(self, source, shares):
        """The first part names the share, the rest lies in it; also where only root may write."""
        assert source.stat("data/sub/file").size == 7
        assert source.exists("data")
        assert [entry.path for entry in source.entries("data", recursive=True)] == ["", "sub", "sub/file"]

    def test_the_names_are_listed(self, source):
        """The path "" lists the shares, and with recursion what they hold."""
        assert [entry.path for entry in source.entries("", recursive=False)] == ["", "data", "models"]
        listed = [entry.path for entry in source.entries("", recursive=True)]
        assert listed == ["", "data", "data/sub", "data/sub/file", "models"]

    def test_a_share_whose_disk_is_gone(self, source, data):
        """It is absent, and the others are listed."""
        (data / "sub" / "file").unlink()
        (data / "sub").rmdir()
        data.rmdir()
        assert [entry.path for entry in source.entries("", recursive=True)] == ["", "models"]
        with pytest.raises(PathNotFound):
            source.stat("data")

    def test_everything_at_once_is_not_copied(self, source):
        """Which share to name is said."""
        with pytest.raises(AccessDenied, match="name a share, such as 'data'"):
            source.tree("", TreeOptions())

    @pytest.mark.parametrize("path", ["private/key", "other", "@train/out", ".staging"])
    def test_what_is_no_share(self, shares, path):
        """Its name is refused, with those that there are."""
        with pytest.raises(AccessDenied, match="has no share .*; it shares 'data', 'models'"):
            shares.open(path)

    @pytest.mark.parametrize("path", ["data/../private/key", "data//sub", "./data", "data/sub/", "data/\0"])
    def test_what_is_no_path(self, shares, path):
        """A path with odd parts is a violation, before any is looked at."""
        with pytest.raises(ProtocolViolation):
            shares.open(path)

    def test_an_absolute_path(self, shares, data):
        """Files have one name here: the one to ask for is said where the share holds them."""
        with pytest.raises(AccessDenied, match="ask for 'data/sub/file' instead"):
            shares.open(f"{data}/sub/file")
        with pytest.raises(AccessDenied, match="does not share '/etc/passwd'"):
            shares.open("/etc/passwd")

    @pytest.mark.parametrize("target", ["../private/key", "/etc/passwd", "../models/x"])
    def test_a_link_out(self, shares, data, tmp_path, target):
        """A link is followed within its own share only, not into another one either."""
        (tmp_path / "models" / "x").write_text("other share")
        (data / "link").symlink_to(target)
        with pytest.raises(AccessDenied, match="leads through a symbolic link out"):
            shares.open("data/link")

    def test_a_link_within(self, source, data):
        """One that stays in its share is followed, also by its absolute path."""
        (data / "near").symlink_to("sub/file")
        (data / "far").symlink_to(data / "sub" / "file")
        assert (source.stat("data/near").size, source.stat("data/far").size) == (7, 7)

    def test_a_share_that_became_a_link(self, shares, data, tmp_path):
        """It was checked as a directory, and is not followed to anywhere else."""
        data.rename(tmp_path / "moved")
        data.symlink_to(tmp_path / "private")
        with pytest.raises(PathNotFound):
            shares.open("data/key")

    def test_a_share_whose_way_became_a_link(self, tmp_path):
        """A directory above it that is replaced by a link does not lead the daemon elsewhere."""
        for name in ("real", "other"):
            (tmp_path / name / "data").mkdir(parents=True)
            (tmp_path / name / "data" / "file").write_text(name)
        shares = NamedShares(check_shares({"data": str(tmp_path / "real" / "data")}), name="store")
        shares.open("data/file").close()
        (tmp_path / "real").rename(tmp_path / "moved")
        (tmp_path / "real").symlink_to(tmp_path / "other")
        with pytest.raises(PathNotFound):
            shares.open("data/file")
        assert not NamedSource(shares, 1024).exists("data")

    def test_nothing_is_added(self, shares):
        """What is shared is what the daemon was started with."""
        with pytest.raises(AccessDenied, match="cannot be added"):
            shares.declare("/etc")
