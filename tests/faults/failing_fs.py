"""A file system that fails on demand: it passes each call on to a directory, unless it was told otherwise.

It runs in a process of its own, as ``failing_fs.py BACKING MOUNTPOINT CONTROL_FD``. Through the socket it
is told in lines of JSON which calls fail from now on, and answers each with how many did so far, and how
often each operation was called:

    {"plans": [{"operations": ["write"], "after": 3, "times": 1, "errno": 5, "how": "fail", "path": "large"}]}

`how` is "fail", "hang" (as a mount of a server that is gone) or "tear" (a write takes a half of what it was
given). A name counts where `path` is in it. No plans lift it, and let go of calls that hang.
``"flags": false`` refuses the flags of renames from then on, and ``{}`` changes nothing.
"""

import collections
import ctypes
import errno
import json
import os
import socket
import sys
import threading

import mfusepy

libc = ctypes.CDLL(None, use_errno=True)


class Trouble:
    """Which calls fail, how, and how many did."""

    def __init__(self):
        self._lock = threading.Lock()
        self._lifted = threading.Event()
        self._plans = []
        self.met, self.seen = 0, collections.Counter()
        self.flags = True

    def plan(self, told):
        with self._lock:
            self._lifted.set()
            self._lifted = threading.Event()
            self._plans = [dict(each, seen=0) for each in told["plans"]]
            self.met, self.seen = 0, collections.Counter()
            self.flags = told.get("flags", self.flags)

    def meet(self, operation, *paths, size=0):
        """Return None to go on, or how many bytes to take of a write; raise what the caller is to meet."""
        with self._lock:
            self.seen[operation] += 1
            lifted, due = self._lifted, [plan for plan in self._plans if _is_due(plan, operation, paths)]
            plan = due[0] if due else None
            if plan is None:
                return None
            self.met += 1
        if plan["how"] == "hang":
            lifted.wait()
            return None
        if plan["how"] == "tear":
            return max(1, size // 2)
        raise OSError(plan["errno"], os.strerror(plan["errno"]))


def _is_due(plan, operation, paths):
    if operation not in plan["operations"] or not any(plan["path"] in path for path in paths):
        return False
    plan["seen"] += 1
    return plan["after"] < plan["seen"] <= plan["after"] + plan["times"]


class FailingOperations(mfusepy.Operations):
    """Each call of FUSE, done in a directory."""

    use_ns = True

    def __init__(self, backing, trouble):
        self._backing = backing
        self._trouble = trouble

    def _real(self, operation, path, **more):
        self._trouble.meet(operation, path, **more)
        return self._backing + path

    def init_with_config(self, conn_info, config_3):
        if config_3 is not None:
            config_3.use_ino = config_3.hard_remove = True
            config_3.entry_timeout = config_3.attr_timeout = config_3.negative_timeout = 0.0

    def getattr(self, path, fh=None):
        if fh is None:
            status = os.lstat(self._real("getattr", path))
        else:
            self._trouble.meet("getattr", path or "")
            status = os.fstat(fh)
        found = {key: getattr(status, key) for key in dir(status) if key.startswith("st_")}
        for kind in ("atime", "mtime", "ctime"):
            found[f"st_{kind}"] = getattr(status, f"st_{kind}_ns")
        return found

    def readdir(self, path, fh):
        self._trouble.meet("readdir", path)
        return [(name, None, 0) for name in (".", "..", *os.listdir(self._backing + path))]

    def opendir(self, path):
        return 0

    def releasedir(self, path, fh):
        return 0

    def readlink(self, path):
        return os.readlink(self._real("readlink", path))

    def open(self, path, flags):
        return os.open(self._real("open", path), flags & ~os.O_NOFOLLOW)

    def create(self, path, mode, fi=None):
        flags = fi if isinstance(fi, int) else os.O_RDWR
        return os.open(self._real("create", path), flags | os.O_CREAT, mode)

    def release(self, path, fh):
        os.close(fh)
        return 0

    def flush(self, path, fh):
        self._trouble.meet("flush", path or "")
        return 0

    def read(self, path, size, offset, fh):
        self._trouble.meet("read", path or "")
        return os.pread(fh, size, offset)

    def write(self, path, data, offset, fh):
        half = self._trouble.meet("write", path or "", size=len(data))
        return os.pwrite(fh, data if half is None else data[:half], offset)

    def truncate(self, path, length, fh=None):
        os.truncate(self._real("truncate", path), length)
        return 0

    def fsync(self, path, datasync, fh):
        self._trouble.meet("fsync", path or "")
        return 0

    def fsyncdir(self, path, datasync, fh):
        self._trouble.meet("fsyncdir", path or "")
        return 0

    def mkdir(self, path, mode):
        os.mkdir(self._real("mkdir", path), mode)
        return 0

    def rmdir(self, path):
        os.rmdir(self._real("rmdir", path))
        return 0

    def unlink(self, path):
        os.unlink(self._real("unlink", path))
        return 0

    def symlink(self, target, source):
        os.symlink(source, self._real("symlink", target))
        return 0

    def link(self, target, source):
        os.link(self._backing + source, self._real("link", target), follow_symlinks=False)
        return 0

    def rename(self, old, new):
        return self.rename_with(old, new, 0)

    def rename_with(self, old, new, flags):
        self._trouble.meet("rename", old, new)
        if flags and not self._trouble.flags:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        here = -100  # AT_FDCWD
        names = [os.fsencode(self._backing + path) for path in (old, new)]
        if libc.renameat2(here, names[0], here, names[1], flags):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return 0

    def chmod(self, path, mode):
        os.chmod(self._real("chmod", path), mode)
        return 0

    def chown(self, path, uid, gid):
        os.chown(self._real("chown", path), uid, gid, follow_symlinks=False)
        return 0

    def utimens(self, path, times=None):
        os.utime(self._real("utimens", path), ns=times, follow_symlinks=False)
        return 0

    def statfs(self, path):
        found = os.statvfs(self._backing + path)
        return {key: getattr(found, key) for key in dir(found) if key.startswith("f_")}


class WithFlags(mfusepy.FUSE):
    """Passes the flags of renames on, which the binding drops."""

    def rename_fuse_3(self, old, new, flags):
        return self.operations.rename_with(os.fsdecode(old), os.fsdecode(new), flags)


def obey(control, trouble):
    """Take one plan after the other; without whoever tells them, there is nothing left to do."""
    with control.makefile("r") as lines:
        for line in lines:
            before, told = (trouble.met, trouble.seen), json.loads(line)
            if told:
                trouble.plan(told)
            control.sendall(json.dumps(before).encode() + b"\n")
    os._exit(0)


def main():
    backing, mountpoint, control = sys.argv[1], sys.argv[2], socket.socket(fileno=int(sys.argv[3]))
    trouble = Trouble()
    threading.Thread(target=obey, args=(control, trouble), daemon=True).start()
    operations = FailingOperations(backing, trouble)
    WithFlags(operations, mountpoint, foreground=True, fsname="failing", default_permissions=True)


if __name__ == "__main__":
    os.umask(0)
    main()
