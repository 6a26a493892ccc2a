"""Every command and every line of Python in README and docs is run, or checked and marked with the reason."""

import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.support import faces, pages, tiny

ROOT = pages.ROOT
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = {
    "python.md": "tests/parity/test_face_examples.py",
    "add_a_family.md": "tests/end_to_end/test_add_a_family.py",
}
"""Pages whose code another test runs."""
NO_CODE = {"", "text", "bibtex", "ini", "json"}
"""Languages of blocks that show output or contents of a file."""
DIGITS = (load_digits().images[:16, :, :, None] * 16).clip(0, 240).astype(np.uint8)


def read(path):
    return pages.blocks(path.read_text())


def code(path):
    """The blocks of a page that this module answers for."""
    return [] if path.name in ELSEWHERE else [block for block in read(path) if block.language not in NO_CODE]


CHECKED = [
    pytest.param(block, id=f"{path.stem}-{block.line}")
    for path in PAGES
    for block in code(path)
    if block.language == "sh" and not block.mark.startswith("not run")
]
RUN = [path for path in PAGES if any(block.mark in ("", "quick") for block in code(path))]


def test_every_block_is_of_a_known_language():
    known = {*NO_CODE, "sh", "python"}
    assert not [
        (path.name, b.line, b.language) for path in PAGES for b in read(path) if b.language not in known
    ]
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text()


@pytest.mark.parametrize("block", CHECKED)
def test_commands_exist_and_take_their_options(block):
    for folder, words in pages.commands(block.text):
        pages.check(folder, words)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A folder like a clone, with runs of tiny models and pictures, that a page's commands work in."""
    for name in ("egs", "examples", "data_scripts", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for twin in ("torch_impl", "jax_impl"):
        (tmp_path / twin).mkdir()
    for i, picture in enumerate(DIGITS):
        path = tmp_path / "pictures" / "test" / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0]).save(path)
    for split in ("train", "val"):
        shutil.copytree(tmp_path / "pictures" / "test", tmp_path / "pictures" / split)
    monkeypatch.chdir(tmp_path)
    return tmp_path


NEEDS = {"explore.md", "compression.md", "foreign_pictures.md"}
"""Pages that take for granted the run of the first command in the README."""


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_the_code_of_a_page_runs(path, clone):
    if path.name in NEEDS:
        faces.write_run(clone / "torch_impl", "digits", tiny.TINY)
    names = given()
    for block in code(path):
        text = block.text.replace("/pictures/", f"{clone}/pictures/")
        if block.mark not in ("", "quick"):
            continue
        if block.language == "python":
            names |= {} if "vae" in names else opened(clone)
            exec(text, names)  # noqa: S102 - a page of this repository
        else:
            for folder, words in pages.commands(text):
                pages.run(folder, words, clone, quick=block.mark == "quick")


def given():
    """Names that the Python of a page takes for granted."""
    pictures = {"pictures": DIGITS[:2], "known": DIGITS[:8], "strange": DIGITS[8:10]}
    return {**pictures, "a": DIGITS[:1], "b": DIGITS[1:2], "mask": faces.LEFT}


def opened(root):
    """The model that the Python of a page takes for granted."""
    run = root / "torch_impl" / "logs-digits"
    return {"vae": import_module("dioscuri.torch").load(run)} if Path(run).is_dir() else {}
