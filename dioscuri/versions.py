"""Versions of the programs that took part in a run, for the checkpoint's record."""

import platform
from importlib.metadata import PackageNotFoundError, version

from dioscuri import __version__

PACKAGES = ("torch", "jax", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Package name to version; packages that are not installed are left out."""
    numbers = {"python": platform.python_version(), "dioscuri": __version__}
    for name in PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
