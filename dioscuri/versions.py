"""Versions of the packages that a run used, recorded in its checkpoints."""

import platform
from importlib.metadata import PackageNotFoundError, version

from dioscuri import __version__

PACKAGES = ("torch", "jax", "jaxlib", "flax", "optax", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Package name -> version, for the packages that are installed."""
    numbers = {"python": platform.python_version(), "dioscuri": __version__}
    for name in PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            continue
    return numbers
