"""Carries packets between network namespaces, late, at a rate, and not all of them.

    forwarder.py PREFIX HOSTS DELAY_SECONDS LOSS MBIT MTU

Makes the namespaces PREFIX1 to PREFIXn, each with the one address 10.78.0.i on a TUN device, and
says "up". From then on every packet passes through this process, since a kernel may have no netem: each
host has a line of its own in either direction, with a rate and a queue, and a packet is delayed
once. A line "cut I" or "mend I" on standard input ends and begins what host I sends and
receives, as if somewhere on the way a cable were pulled: no interface notices. At the end of
standard input, so also when whoever started it dies, the namespaces are removed.
"""

import collections
import contextlib
import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import time

_CLONE_NEWNET = 0x40000000  # sched.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_QUEUE_SECONDS = 0.2  # what would wait longer for its line is dropped
_PACKETS_A_TURN = 256
_TICK_SECONDS = (
    0.0005  # packets are taken up in turns, if they are delayed anyway: each by itself costs too much
)
_DESTINATION = slice(16, 20)  # in the header of IPv4


def ip(*words):
    subprocess.run(["ip", *words], check=True)


class Line:
    """One direction of a host's connection."""

    def __init__(self, bytes_per_second):
        self._bytes_per_second = bytes_per_second
        self._free_at = 0.0

    def leave_at(self, now, size):
        """Return when a packet has passed, or None where the queue is full."""
        start = max(self._free_at, now)
        if start - now > _QUEUE_SECONDS:
            return None
        self._free_at = start + size / self._bytes_per_second
        return self._free_at


class Host:
    """A namespace and its device."""

    def __init__(self, namespace, number, mbit, mtu):
        self.address = bytes([10, 78, 0, number])
        self.up, self.down = Line(mbit * 125_000), Line(mbit * 125_000)
        self.is_cut = False
        self.arriving = collections.deque()  # (when, packet), ascending: its line keeps the order
        self.fd = _open_tun(namespace)
        ip("-n", namespace, "addr", "add", f"10.78.0.{number}/24", "dev", "lab0")
        ip("-n", namespace, "link", "set", "lab0", "mtu", str(mtu), "up")
        ip("-n", namespace, "link", "set", "lo", "up")

    def deliver(self, now):
        while self.arriving and self.arriving[0][0] <= now:
            packet = self.arriving.popleft()[1]
            if not self.is_cut:
                try:
                    os.write(self.fd, packet)
                except OSError:
                    pass  # its interface is down


def _open_tun(namespace):
    libc = ctypes.CDLL(None, use_errno=True)
    here, there = os.open("/proc/self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if libc.setns(there, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"lab0", _IFF_TUN | _IFF_NO_PI))
    finally:
        libc.setns(here, _CLONE_NEWNET)
        os.close(here)
        os.close(there)
    return fd


class Network:
    """The hosts, and what is between them."""

    def __init__(self, hosts, delay_seconds, loss):
        self._hosts = hosts
        self._delay_seconds = delay_seconds
        self._loss = loss
        self._by_fd = {host.fd: host for host in hosts}
        self._by_address = {host.address: host for host in hosts}

    def run(self):
        """Carry packets until standard input ends."""
        readable = [*self._by_fd, sys.stdin.fileno()]
        while True:
            if self._delay_seconds:
                time.sleep(_TICK_SECONDS)
            due = [host.arriving[0][0] for host in self._hosts if host.arriving]
            timeout = max(0.0, min(due) - time.monotonic()) if due else None
            for fd in select.select(readable, [], [], timeout)[0]:
                if fd != sys.stdin.fileno():
                    self._take(self._by_fd[fd])
                elif not self._obey(os.read(fd, 1024).decode()):
                    return
            now = time.monotonic()
            for host in self._hosts:
                host.deliver(now)

    def _take(self, source):
        now = time.monotonic()
        for _ in range(_PACKETS_A_TURN):
            try:
                packet = os.read(source.fd, 1 << 16)
            except OSError:
                return  # there is none, or the interface is down
            target = self._by_address.get(packet[_DESTINATION]) if packet[0] >> 4 == 4 else None
            if target is None or source.is_cut or random.random() < self._loss:
                continue
            sent_at = source.up.leave_at(now, len(packet))
            arrives_at = None if sent_at is None else target.down.leave_at(sent_at, len(packet))
            if arrives_at is not None:
                target.arriving.append((arrives_at + self._delay_seconds, packet))

    def _obey(self, orders):
        for order in orders.splitlines():
            word, number = order.split()
            self._hosts[int(number) - 1].is_cut = word == "cut"
            print(order, flush=True)
        return bool(orders)


def main():
    with contextlib.suppress(OSError):  # a network does not wait for the computers that it joins
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    prefix, (hosts, delay_seconds, loss, mbit, mtu) = sys.argv[1], map(float, sys.argv[2:])
    names = [f"{prefix}{number}" for number in range(1, int(hosts) + 1)]
    try:
        made = []
        for number, name in enumerate(names, 1):
            ip("netns", "add", name)
            made.append(Host(name, number, mbit, int(mtu)))
        print("up", flush=True)
        Network(made, delay_seconds, loss).run()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
