"""The twins as packages: which of them can work here, and their modules, imported when they are needed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dioscuri.engine import Engine
from dioscuri.errors import UserError

FRAMEWORKS = {"torch": ("torch",), "jax": ("jax", "flax", "optax")}
"""What each twin needs to be installed; the extra of the package is called like the twin."""
TITLES = {"torch": "PyTorch", "jax": "JAX"}


@dataclass(frozen=True)
class Twin:
    """One of the twins, as the commands use it."""

    name: str
    make_engine: Callable[[Any], Engine]
    """From the options of a run to the engine. The import is slow: it comes once the options are known to be
    right."""
    count_processes: Callable[[int], int] = lambda _num_gpus: 1
    """From `run.num_gpus` to the processes to start; a `UserError` if the machine has fewer devices."""


def open_twin(name: str) -> Twin:
    """The twin 'torch' or 'jax'; a `UserError` if its framework is not installed."""
    require(name)

    def make_engine(hparams: Any) -> Engine:
        engine: Engine = twin_module(name, "engine").Engine(hparams)
        return engine

    def count_processes(num_gpus: int) -> int:
        count: Callable[[int], int] = getattr(twin_module(name, "devices"), "count_processes", lambda _: 1)
        return count(num_gpus)

    return Twin(name, make_engine, count_processes)


def installed() -> list[str]:
    """Names of the twins whose framework is installed, 'torch' first."""
    return [name for name in FRAMEWORKS if not _missing(name)]


def default_twin() -> str:
    """The twin that is installed, 'torch' where both are; a `UserError` if none is."""
    names = installed()
    if not names:
        raise UserError("neither PyTorch nor JAX is installed: pip install 'dioscuri[torch]'")
    return names[0]


def require(name: str) -> None:
    """Raise a `UserError` with the command that installs it where a twin's framework is missing."""
    if missing := _missing(name):
        raise UserError(
            f"the {TITLES[name]} twin needs {', '.join(missing)}, which is not installed: "
            f"pip install 'dioscuri[{name}]'"
        )


def twin_module(name: str, module: str) -> ModuleType:
    """A module of a twin, such as 'engine'; a `UserError` if the twin's framework is not installed."""
    require(name)
    return import_module(f"{name}_impl.{module}")


def _missing(name: str) -> list[str]:
    """Packages of a twin's framework that are not there; a folder of such a name is none."""
    specs = {package: find_spec(package) for package in FRAMEWORKS[name]}
    return [package for package, spec in specs.items() if spec is None or spec.origin is None]
