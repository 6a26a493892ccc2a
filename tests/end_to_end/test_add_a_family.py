"""The page on adding a family is complete: the family of its files trains and generates."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).parents[2]
FILE = re.compile(
    r"^`(?P<path>[\w./]+)`\n\n```(?:python|ini)\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL
)
QUICK = (
    "train.total_train_steps=3",
    "train.checkpoint_and_eval_interval_in_steps=3",
    "train.logging_interval_in_steps=1",
    "model.hidden=16",
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of the program with the page's files added; none of them is there before."""
    folder = tmp_path_factory.mktemp("tree")
    for name in ("dioscuri", "torch_impl", "jax_impl"):
        ignored = shutil.ignore_patterns("logs-*", ".jax_cache")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    files = dict(FILE.findall((ROOT / "docs" / "add_a_family.md").read_text()))
    assert len(files) == 9
    for path, content in files.items():
        assert not (folder / path).exists(), path
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_the_pages_family_trains_and_generates(tree, twin):
    cfg = tree / "egs" / "plain_vae" / "digits.cfg"
    command = [sys.executable, "-m", "dioscuri"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "DIOSCURI_RUNS": str(tree / twin)}
    describe = ("describe", "--twin", twin, *(("--quick",) if twin == "jax" else ()))
    for job in (describe, ("train", "--twin", twin), ("synthesize", "--twin", twin)):
        words = [*command, *job, str(cfg), *QUICK]
        done = subprocess.run(words, cwd=tree, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    run = tree / twin / "logs-plain-vae-digits"
    weights = load_file(next(run.rglob("model.safetensors")))
    assert weights["encoder_in.weight"].shape == (16, 64)
    assert any(run.rglob("*.png"))
