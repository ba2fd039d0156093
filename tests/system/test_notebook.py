"""A kernel executes notebooks whose cells define Works."""

import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # of the kernel's own libraries

EXAMPLE = Path(__file__).parents[2] / "examples" / "notebook.ipynb"


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Execute a notebook in this interpreter; return what each of its code cells shows."""
    pytest.importorskip("jupyter_client")
    kernel = tmp_path / "share" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = f'["{sys.executable}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(f'{{"argv": {command}, "display_name": "x", "language": "python"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("LIT_STORAGE_ROOT", raising=False)

    def execute(notebook):
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
        return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]

    return execute


def test_the_example(execute):
    """Two Works and an App of cells run twice."""
    outputs = execute(nbformat.read(EXAMPLE, as_version=4))
    shown = [[output.data["text/plain"] for output in cell if "data" in output] for cell in outputs]
    assert shown[:3] == [[], [], []]
    assert shown[3] == shown[4] == ["([1.0, 0.5, 0.3333333333333333], 'weights of epoch 3')"]


EDITED = """
class Says(Work):
    def run(self):
        return greeting() + " {}"
class Pipeline(Flow):
    def __init__(self):
        super().__init__()
        self.says = Says()
    def run(self):
        print(self.says.run())
App(Pipeline()).run()
"""


def test_a_cell_that_was_edited(execute):
    """The class that was defined last runs, with the function that was defined last."""
    sources = [
        "from lit_storage import App, Flow, Work\ndef greeting(): return 'hello'",
        EDITED.format("first"),
        "def greeting(): return 'goodbye'",
        EDITED.format("second"),
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    outputs = execute(nbformat.v4.new_notebook(cells=cells))
    printed = ["".join(output.get("text", "") for output in cell) for cell in outputs]
    assert printed == ["", "hello first\n", "", "goodbye second\n"]
