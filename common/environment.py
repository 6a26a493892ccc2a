"""Entry scripts started by any interpreter go on in the project's environment, which is made if need be.

This module is read by interpreters that have none of the project's packages: standard library only.
"""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("einops", "flax", "jax", "optax", "safetensors", "sklearn", "tensorboardX", "torch")
"""An interpreter that finds all of these is taken as it is."""

_MARK = "DIOSCURI_RESTARTED"


def enter_environment() -> None:
    """Return if the packages are there; else this process becomes the same command in the environment."""
    if _MARK in os.environ or all(find_spec(name) for name in PACKAGES):
        return
    setup = Path(__file__).resolve().parents[1] / "build" / "setup_env.sh"
    made = subprocess.run(
        ["sh", str(setup), "--print-python"], stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        sys.exit(made.returncode)
    python = made.stdout.strip()
    os.environ[_MARK] = "1"
    os.execv(python, [python, *sys.argv])
