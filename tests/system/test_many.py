"""Many files, and many processes at one target."""

import pytest

pytestmark = pytest.mark.slow

ORIGIN = """
import sys, time
import lit_storage
from lit_storage import Path
with lit_storage.join("origin"):
    Path("lit://tree").mkdir()
    for i in range(FILES):
        where = Path("lit://tree") / str(i // 1000)
        if i % 1000 == 0:
            where.mkdir()
        with open(where / str(i), "w") as file:
            file.write(str(i))
    print("ready", flush=True)
    time.sleep(900)
"""
CONSUMER = """
import lit_storage
from lit_storage import Path
with lit_storage.connect():
    tree = Path("lit://@origin/tree")
    for _ in range(TIMES):
        files = tree.get(overwrite=True, durable=False).files
    print("files", files)
    print("whole", sum(int(file.read_text()) for file in tree.rglob("*") if file.is_file()))
"""


@pytest.fixture
def origin(program):
    def start(files):
        program(ORIGIN.replace("FILES", str(files))).read_until("ready")

    return start


@pytest.mark.timeout(900)  # a minute on two cores that do nothing else
def test_a_hundred_thousand_files(origin, program):
    """All arrive, each with its own bytes."""
    origin(100_000)
    consumer = program(CONSUMER.replace("TIMES", "1"))
    assert consumer.read_until("files") == "100000"
    assert consumer.read_until("whole") == str(sum(range(100_000)))


def test_processes_that_get_to_one_target(origin, program, root):
    """Each get of each process ends well, the target is whole, and no staging is left."""
    origin(300)
    consumers = [program(CONSUMER.replace("TIMES", "20")) for _ in range(3)]
    ends = [consumer.end() for consumer in consumers]
    assert [code for code, _, _ in ends] == [0, 0, 0], ends
    tree = root / "connect" / "@origin" / "tree"
    assert sum(int(file.read_text()) for file in tree.rglob("*") if file.is_file()) == sum(range(300))
    assert list((root / "connect" / ".staging").iterdir()) == []
