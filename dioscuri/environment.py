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
_ALLOCATOR = "GLIBC_TUNABLES"


def enter_environment() -> None:
    """Return if the packages are there and the C library's allocator is set up; else this process becomes the
    same command, in the environment if need be.

    JAX takes memory for intermediate arrays anew in every step, and a CPU spends up to half of the step on
    handing it over in pages of 4 KB: on Linux the allocator is to ask for large ones, unless the user has set
    its `GLIBC_TUNABLES`.
    """
    complete = all(find_spec(name) for name in PACKAGES)
    # A program from standard input, or an interactive session, could not be started again.
    script = getattr(sys.modules["__main__"], "__file__", None)
    from_file = script is not None and Path(script).is_file()
    lacks_pages = from_file and sys.platform == "linux" and _ALLOCATOR not in os.environ
    if _MARK in os.environ or (complete and not lacks_pages):
        return
    os.environ[_MARK] = "1"
    os.environ.setdefault(_ALLOCATOR, "glibc.malloc.hugetlb=1")
    python, arguments = (sys.executable, sys.orig_argv[1:]) if complete else (_made_python(), sys.argv)
    os.execv(python, [python, *arguments])


def _made_python() -> str:
    """Interpreter of the project's environment, which is made if need be."""
    setup = Path(__file__).resolve().parents[1] / "build" / "setup_env.sh"
    made = subprocess.run(
        ["sh", str(setup), "--print-python"], stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        sys.exit(made.returncode)
    return made.stdout.strip()
