"""Calling the twins' command lines, in this process or in one of its own; runs live in a temporary folder."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from dioscuri.cli.runs import synthesize_command, train_command

ROOT = Path(__file__).parents[2]
TWINS = ("torch_impl", "jax_impl")

SCRIPT = """
import sys
from pathlib import Path
from dioscuri.cli.runs import train_command
from {module} import {engine}
train_command({engine}, Path(sys.argv.pop(1)))
"""
FAKE = SCRIPT.format(module="tests.support.fake_engine", engine="FakeEngine")
TORCH = SCRIPT.format(module="torch_impl.engine", engine="Engine")
JAX = SCRIPT.format(module="jax_impl.engine", engine="Engine")


def call(job, twin, *words):
    """Run `train` or `synthesize` of a twin here; `twin` is its folder, named like its package."""
    make_engine = import_module(f"{twin.name}.engine").Engine
    command = {"train": train_command, "synthesize": synthesize_command}[job]
    with patch.object(sys, "argv", [f"{job}.py", *map(str, words)]):
        command(make_engine, twin)


def start(twin, script, *words):
    """Start training in a process of its own; runs live in the folder `twin`."""
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
    found = []
    for path in sorted(folder.glob(pattern)):
        with Image.open(path) as image:
            found.append(np.asarray(image))
    return np.stack(found)
