"""Lets an entry script, started by any interpreter, continue in the project's environment.

Interpreters without the project's packages import this module: it uses the standard library only.
"""

import os
import subprocess
import sys
from ctypes import CDLL
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("einops", "flax", "jax", "optax", "safetensors", "sklearn", "tensorboard", "torch")
"""An interpreter that can import all of these is used as it is."""

_MARK = "DIOSCURI_RESTARTED"
_ALLOCATOR = "GLIBC_TUNABLES"
LARGE_PAGES = "glibc.malloc.hugetlb=1"
_ALL_BYTES = 2**31 - 1
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_ROOT = Path(__file__).resolve().parents[1]
_SETUP = _ROOT / "build" / "setup_env.sh"
"""Makes the environment of a clone; an installed package lacks it."""


def enter_environment() -> None:
    """Return if the packages are installed and the C library's allocator is set up. Otherwise replace this
    process by the same command with both, in the project's environment, which is created if necessary.

    JAX allocates memory for intermediate arrays in every step, and mapping it in pages of 4 KB takes up to
    half of a step on the CPU. On Linux the allocator is therefore told to use large pages, unless the user
    has set `GLIBC_TUNABLES`.
    """
    if _MARK in os.environ:
        return
    complete = all(find_spec(name) for name in PACKAGES) or _is_installed()
    # A program read from standard input, or an interactive session, cannot be started again.
    script = getattr(sys.modules["__main__"], "__file__", None)
    from_file = script is not None and Path(script).is_file()
    lacks_pages = from_file and sys.platform == "linux" and _ALLOCATOR not in os.environ
    if complete and not lacks_pages:
        return
    os.environ[_MARK] = "1"
    os.environ.setdefault(_ALLOCATOR, LARGE_PAGES)
    python, arguments = (sys.executable, sys.orig_argv[1:]) if complete else (_made_python(), _program())
    os.execv(python, [python, *arguments])


def keep_freed_memory() -> None:
    """Let the allocator keep freed memory for the next step, if `GLIBC_TUNABLES` has our setting.

    By default glibc returns large arrays to the system, which clears their pages when they come back: a tenth
    to a fifth of a step in JAX. Its threads share one arena, since the others hold at most 64 MB.
    """
    if sys.platform != "linux" or os.environ.get(_ALLOCATOR) != LARGE_PAGES:
        return
    library = CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, _ALL_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _ALL_BYTES)


def give_back_freed_memory() -> None:
    """Return freed memory to the system, where the C library can: what a compilation leaves is of no use to
    the steps, whose arrays are larger than its pieces."""
    if sys.platform == "linux" and hasattr(library := CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


def _is_installed() -> bool:
    """Whether this package is installed for the interpreter; the frameworks are then the user's choice."""
    if not _SETUP.is_file():
        return True
    from importlib.metadata import distributions  # noqa: PLC0415 - slow, and rarely needed

    # A clone may hold metadata of its own, which says nothing of the interpreter.
    elsewhere = [folder for folder in sys.path if Path(folder or ".").resolve() != _ROOT]
    return any(distributions(name="dioscuri", path=elsewhere))


def _program() -> list[str]:
    """This command without the interpreter and its options."""
    spec = sys.modules["__main__"].__spec__
    return sys.argv if spec is None else ["-m", spec.parent or spec.name, *sys.argv[1:]]


def _made_python() -> str:
    """Interpreter of the project's environment, which is created if necessary."""
    made = subprocess.run(
        ["sh", str(_SETUP), "--print-python"], stdout=subprocess.PIPE, text=True, check=False
    )
    if made.returncode:
        sys.exit(made.returncode)
    return made.stdout.strip()
