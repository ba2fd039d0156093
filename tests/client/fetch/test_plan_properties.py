import os
import string

from hypothesis import given
from hypothesis import strategies as st

from lit_storage_client.fetch.plan import Plan, Step
from lit_storage_proto.entry import Entry, Kind
from lit_storage_proto.errors import ProtocolViolation

ROOT = Entry("", Kind.DIRECTORY)
PARTS = st.sampled_from(["", ".", "..", "a", "b", "/", "\0", "\udcff", *string.ascii_letters[:3]])


@given(
    st.lists(
        st.tuples(st.lists(PARTS, max_size=5), st.sampled_from([Kind.FILE, Kind.DIRECTORY])), max_size=20
    )
)
def test_what_is_made_lies_in_what_was_made(items):
    """Whatever a peer sends, each path to make is new, and one step below a directory made before."""
    plan, made = Plan(), {"": Kind.DIRECTORY}
    plan.add(ROOT)
    for parts, kind in items:
        path = "/".join(parts)
        try:
            make = plan.add(Entry(path, kind))
        except ProtocolViolation:
            continue
        parent, _, name = path.rpartition("/")
        assert make is Step.MAKE
        assert made[parent] is Kind.DIRECTORY
        assert path not in made
        assert name not in ("", ".", "..")
        assert "\0" not in name
        made[path] = kind


@given(st.lists(st.lists(st.sampled_from(["..", "a", "l", "m"]), max_size=7), min_size=2, max_size=2))
def test_links_that_are_kept_lead_nowhere_else(tmp_path_factory, texts):
    """However links are chained, none that is kept resolves to something outside of the tree."""
    tree = os.path.realpath(tmp_path_factory.mktemp("tree"))
    plan = Plan()
    plan.add(ROOT)
    plan.add(Entry("a", Kind.DIRECTORY))
    os.mkdir(f"{tree}/a")
    plan.add(Entry("a/l", Kind.SYMLINK, link_target="/".join(texts[0])))
    plan.add(Entry("m", Kind.SYMLINK, link_target="/".join(texts[1])))
    for link in plan.links():
        os.symlink(link.link_target, f"{tree}/{link.path}")
    for name in ("a/l", "m", "a/l/a/l", "m/a/l", "a/l/m"):
        assert f"{os.path.realpath(f'{tree}/{name}')}/".startswith(f"{tree}/")
