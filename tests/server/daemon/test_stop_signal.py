"""The flag that ends a daemon."""

import signal
import threading
import time

from lit_storage_server.daemon.stop_signal import StopSignal


def test_a_signal_that_interrupts_no_system_call_ends_a_wait():
    """One that another thread took, as one that came just before the call, is seen all the same."""
    stopping = StopSignal()
    before = signal.signal(signal.SIGUSR1, lambda *_: stopping.set())
    waiting, ended = threading.Event(), threading.Event()

    def take():
        waiting.wait(60)
        time.sleep(0.05)  # so that the other thread is in its system call
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        ended.wait(60)
        stopping.set()  # or the wait would have no end

    other = threading.Thread(target=take)
    other.start()
    began = time.monotonic()
    waiting.set()
    assert stopping.wait()
    assert time.monotonic() - began < 30
    ended.set()
    other.join()
    signal.signal(signal.SIGUSR1, before)


def test_it_is_waited_for_so_long():
    """And no longer, nor at all once it is raised."""
    stopping = StopSignal()
    began = time.monotonic()
    assert not stopping.wait(0.7)
    assert 0.7 <= time.monotonic() - began < 20
    stopping.set()
    assert stopping.wait()
    assert stopping.wait(1000)
