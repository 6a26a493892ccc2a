"""Importing the package and using it in a process of its own: no setting changes, and one framework at most
is loaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TWINS = ("torch", "jax")
ROOT = Path(__file__).parents[2]

SETTINGS = {
    "torch": "import torch; settings = lambda: (torch.get_default_dtype(), torch.get_num_threads(), "
    "torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision, "
    "torch.backends.cudnn.benchmark, torch.get_rng_state().tolist())",
    "jax": "import jax; settings = lambda: {name: value for name, value in jax.config.values.items()}",
}


@pytest.mark.parametrize("twin", TWINS)
def test_importing_and_using_changes_no_setting_and_loads_one_framework(runs, twin):
    code = f"""
import os, sys, random, warnings
{SETTINGS[twin]}
import numpy as np
def everything():
    states = random.getstate(), str(np.random.get_state())
    return settings(), list(warnings.filters), dict(os.environ), states
before = everything()
import dioscuri
from dioscuri import {twin} as dio
model = dio.load({str(runs["vqgan"])!r})
model.encode(np.zeros((1, 8, 8), np.uint8))
assert everything() == before, "settings changed"
model.to(dtype="float64").encode(np.zeros((1, 8, 8), np.uint8))
assert everything() == before, "settings changed by float64"
other = "jax" if {twin!r} == "torch" else "torch"
assert other not in sys.modules, other
"""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_package_loads_no_framework():
    code = "import sys, dioscuri; print(*[n for n in ('torch', 'jax', 'flax', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
