"""The arguments of run on their way: each Path in them is collected at both ends."""

import pathlib
import pickle
import threading

import pytest

from lit_storage import Path
from lit_storage.apps.arguments import pack, unpack
from lit_storage.paths.origin import Origin
from tests.lit_storage.apps.containers import IMMUTABLE, KINDS, item_of

EVERY = {**KINDS, **IMMUTABLE}
REMOTE = "lit://@train/out"


class Model(Path):
    """A user's own class of Paths."""


class Reduced:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Reduced, (self.path,)


class WithState:
    def __init__(self, path):
        self.path = path

    def __getstate__(self):
        return [self.path]

    def __setstate__(self, state):
        (self.path,) = state


class Nested(Reduced):
    """Keeps its parts in a pickle within the pickle."""

    def __reduce__(self):
        return pickle.loads, (pickle.dumps(WithState(self.path)),)


def arrived(value):
    return unpack(pack((value,), {}, "deploy").pickled, Origin("deploy"))


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_path_in_any_container_arrives_with_its_consumer(make):
    """It is the very object that is collected."""
    (value,), _, found = arrived(make(Path(REMOTE)))
    assert [item_of(value)] == found
    assert (found[0].origin_name, found[0].consumer_name) == ("train", "deploy")


@pytest.mark.parametrize("make", [Reduced, WithState, Nested])
def test_what_a_class_pickles_by_itself_is_searched(make):
    """Paths in what __reduce__ and __getstate__ return are collected."""
    (value,), _, found = arrived(make(Path(REMOTE)))
    assert found == [value.path]
    assert value.path.consumer_name == "deploy"


def test_a_subclass_of_path_keeps_its_class():
    """And is collected like any Path."""
    _, _, found = arrived({"model": Model(REMOTE)})
    assert [type(path) for path in found] == [Model]
    assert found[0].consumer_name == "deploy"


def test_keyword_arguments_are_searched():
    """As the others."""
    _, kwargs, found = unpack(pack((), {"path": Path(REMOTE)}, "deploy").pickled, Origin("deploy"))
    assert found == [kwargs["path"]]


def test_a_path_without_origin_is_left_alone():
    """It is nobody's, so nothing is collected at its arrival."""
    (value,), _, found = arrived(Path("plain"))
    assert (found, value.consumer_name) == ([], None)


def test_the_same_path_twice_arrives_as_one():
    """Identity is kept, as pickle keeps it."""
    path = Path(REMOTE)
    (value,), _, found = arrived([path, path])
    assert value[0] is value[1]
    assert len(found) == 1


@pytest.mark.parametrize("module", [b"lit_storage.paths.path", b"lit_storage.path"])
def test_a_plain_pickle_is_read(module):
    """As an older release wrote it."""
    pickled = pickle.dumps((([Path(REMOTE)],), {}), protocol=0)
    args, _, found = unpack(pickled.replace(b"lit_storage.paths.path", module), Origin("deploy"))
    assert args[0] == found
    assert found[0].consumer_name == "deploy"


def test_an_older_release_reads_what_is_written():
    """Plain pickle.loads takes it."""
    path = Path(REMOTE)
    assert pickle.loads(pack((path,), {"p": path}, "deploy").pickled) == ((path,), {"p": path})


def test_texts_and_paths_are_collected_where_they_are_sent():
    """The text of a Path is no text of the user; each text counts once."""
    packed = pack(([Path(REMOTE), "a/b", "word", pathlib.Path("/c/d")], "a/b"), {"key": "e/f"}, "deploy")
    assert packed.texts == ["a/b", "e/f"]
    assert packed.paths == [Path(REMOTE), pathlib.Path("/c/d")]


def test_what_cannot_be_pickled_names_the_work():
    """One sentence, of a type that callers know."""
    with pytest.raises(TypeError, match="'deploy'.*lock"):
        pack((threading.Lock(),), {}, "deploy")


def test_what_is_nested_too_deeply_is_refused():
    """As what cannot be pickled."""
    value = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(TypeError, match="'deploy'.*(recursion|overflow)"):
        pack((value,), {}, "deploy")
    while value:  # or its destruction recurses as deeply
        value = value.pop()


def test_the_loader_of_pickle_is_an_argument_like_any_other():
    """It loads what it is given, with options and later as well, and can be sent on."""
    (load,), _, found = arrived(pickle.loads)
    assert load(pickle.dumps("é"), encoding="utf-8") == "é"
    assert load(pickle.dumps(Path(REMOTE))) == Path(REMOTE)
    assert found == []
    assert pickle.loads(pickle.dumps(load)) is pickle.loads
