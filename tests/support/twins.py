"""Calls the twins' command lines in this process or in another; runs live in a temporary folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.cli.runs import synthesize_command, train_command
from dioscuri.errors import run_command
from dioscuri.twins import open_twin

ROOT = Path(__file__).parents[2]
TWINS = ("torch_impl", "jax_impl")

SCRIPT = """
import sys
from pathlib import Path
from dioscuri.cli.runs import train_command
from dioscuri.errors import run_command
from dioscuri.twins import Twin, open_twin
from tests.support.fake_engine import FakeEngine
home = Path(sys.argv.pop(1))
run_command(lambda words: train_command({twin}, home, words))
"""
FAKE = SCRIPT.format(twin="Twin('fake', FakeEngine, FakeEngine)")
TORCH = SCRIPT.format(twin="open_twin('torch')")
JAX = SCRIPT.format(twin="open_twin('jax')")


def call(job, twin, *words):
    """Run `train` or `synthesize` of a twin in this process; `twin` is its folder, named like its package."""
    command = {"train": train_command, "synthesize": synthesize_command}[job]
    name = twin.name.removesuffix("_impl")
    run_command(lambda words: command(open_twin(name), twin, words), [str(word) for word in words])


def start(twin, script, *words):
    """Start training in a separate process; runs live in the folder `twin`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    path = twin / "run.py"
    beside = path.with_suffix(".new")
    beside.write_text(script)
    beside.replace(path)  # another process may be about to read it
    return subprocess.Popen(
        [sys.executable, str(path), str(twin), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def pictures(folder, pattern="image-*.png"):
    """All pictures of a folder, (N, H, W), in order of their names."""
    results = []
    for path in sorted(folder.glob(pattern)):
        with Image.open(path) as image:
            results.append(np.asarray(image))
    return np.stack(results)
