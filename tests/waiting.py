"""Waiting for what other threads and processes do."""

import time


def within(seconds, pause=0.01):
    """Return what waits until a condition holds, for so many seconds unless it is told otherwise.

    Args:
        seconds: after which it fails.
        pause: seconds between two looks.
    """

    def wait_until(condition, seconds=seconds):
        """Return what the condition said when it held."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it did not come to be in {seconds:g} s"
            time.sleep(pause)
        return found

    return wait_until
