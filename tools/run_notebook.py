"""Run a notebook's code, and write what it prints and draws into the notebook.

    python tools/run_notebook.py examples/tour.ipynb

The cells run in this process, in order and with one set of names, as Jupyter runs them: a cell shows what it
prints and the values of its expressions, PIL images as pictures. They may not use commands of IPython.
"""

import argparse
import base64
import json
import sys
from ast import Interactive, parse
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

from PIL import Image

from dioscuri.files import replacing


def execute(cells: list[dict[str, Any]], names: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """Run the code cells with these names; yields the outputs of each, as a notebook stores them."""
    display = sys.displayhook
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        shown: list[Any] = []
        tree = parse("".join(cell["source"]))
        with redirect_stdout(StringIO()) as printed:
            sys.displayhook = lambda value, shown=shown: None if value is None else shown.append(value)
            try:
                code = compile(Interactive(tree.body), f"<cell {number + 1}>", "single")
                exec(code, names)  # noqa: S102 - running the notebook is the purpose
            finally:
                sys.displayhook = display
        yield [*_stream(printed.getvalue()), *(_result(value) for value in shown)]


def _stream(text: str) -> list[dict[str, Any]]:
    lines = text.splitlines(keepends=True)
    return [{"name": "stdout", "output_type": "stream", "text": lines}] if lines else []


def _result(value: Any) -> dict[str, Any]:
    data: dict[str, Any] = {"text/plain": [repr(value)]}
    if isinstance(value, Image.Image):
        png = value._repr_png_()
        data = {"image/png": base64.b64encode(png or b"").decode(), "text/plain": ["<a picture>"]}
    return {"data": data, "metadata": {}, "output_type": "display_data"}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebook", type=Path)
    path = parser.parse_args().notebook
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, outputs in enumerate(execute(notebook["cells"], {"__name__": "__main__"})):
        code[number] |= {"outputs": outputs, "execution_count": number + 1}
    with replacing(path) as new:
        new.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
