"""What a Work asks of the node that it runs on."""

import copy
import pickle

import pytest

from lit_storage import App, Flow, Work
from lit_storage.apps.internals import internals
from lit_storage.executors import Resources


class Asking(Work):
    def __init__(self, **resources):
        super().__init__(**resources)

    def run(self):
        return "ran"


class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.asking = Asking(num_gpus=8, resources={"tape": 1})

    def run(self):
        self.told = self.asking.run()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda work: pickle.loads(pickle.dumps(work))])
def test_it_stays_with_the_work(copied):
    """Also with a copy of it."""
    work = copied(Asking(num_cpus=2, num_gpus=0.5, resources={"tape": 1}))
    assert internals(work).resources == Resources(2, 0.5, {"tape": 1})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"num_cpus": -1}, "num_cpus=-1 is no amount"),
        ({"resources": {"tape": float("nan")}}, "tape=nan is no amount"),
        ({"resources": {"GPU": 1}}, "use num_gpus="),
    ],
)
def test_what_is_no_amount_is_refused(wrong, told):
    """When the Work is made, and it is named."""
    with pytest.raises(ValueError, match=told):
        Asking(**wrong)


@pytest.mark.slow
def test_one_machine_passes_over_it(root):
    """The same app runs where nobody hands out such things."""
    flow = Pipeline()
    App(flow).run()
    assert flow.told == "ran"
