"""The tour runs in either twin, and shows what the notebook in the repository shows."""

import json
from pathlib import Path

import pytest

from tools.run_notebook import execute

TOUR = Path(__file__).parents[2] / "examples" / "tour.ipynb"


def kinds(outputs):
    """What a cell shows, without the values: texts, pictures, or an array."""
    return [sorted(output.get("data", {"stream": ""})) for output in outputs]


@pytest.mark.parametrize("twin", ["torch", pytest.param("jax", marks=pytest.mark.slow)])
def test_the_tour_runs(twin):
    cells = [cell for cell in json.loads(TOUR.read_text())["cells"] if cell["cell_type"] == "code"]
    stored = [cell["outputs"] for cell in cells]
    assert all(stored[2:]), "a cell without output: python tools/run_notebook.py examples/tour.ipynb"
    chosen = [
        {**cell, "source": "".join(cell["source"]).replace('"torch"\n', f'"{twin}"\n')} for cell in cells
    ]
    shown = list(execute(chosen, {"__name__": "tour"}))
    assert list(map(kinds, shown)) == list(map(kinds, stored))
    (twins,) = [text for outputs in shown for o in outputs for text in o.get("text", ()) if "largest" in text]
    assert twins.startswith(f"{twin} and ")
    assert twins.endswith(("difference 0 of 255\n", "difference 1 of 255\n"))


def test_a_cell_shows_what_it_prints_and_the_values_of_its_expressions():
    source = [
        "import sys\n",
        "print('a')\n",
        "1 + 1\n",
        "None\n",
        "from PIL import Image\n",
        "Image.new('L', (2, 2))",
    ]
    names = {}
    (outputs,) = execute([{"cell_type": "code", "source": source}, {"cell_type": "markdown"}], names)
    assert kinds(outputs) == [["stream"], ["text/plain"], ["image/png", "text/plain"]]
    assert outputs[0]["text"] == ["a\n"]
    assert "Image" in names
