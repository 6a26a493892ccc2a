"""The twins as packages: which of them are installed, and their modules, imported when needed."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from dioscuri.engine import Engine, InferenceEngine
from dioscuri.errors import UserError

FRAMEWORKS = {"torch": ("torch",), "jax": ("jax", "flax", "optax")}
"""Packages that each twin requires; the extra that installs them has the twin's name."""
TITLES = {"torch": "PyTorch", "jax": "JAX"}


@dataclass(frozen=True)
class Twin:
    """A twin, as the commands use it."""

    name: str
    make_engine: Callable[[Any], Engine]
    """Make the engine for a run's options. Its import is slow, so it waits until they have been checked."""
    make_inference_engine: Callable[[Any], InferenceEngine]
    """Make the engine that runs a trained network, without what only training needs."""
    count_processes: Callable[[int], int] = lambda _num_gpus: 1
    """Number of processes to start for `run.num_gpus`; a `UserError` if the machine has fewer devices."""


def open_twin(name: str) -> Twin:
    """The twin 'torch' or 'jax'; a `UserError` if its framework is not installed."""
    require(name)

    def make_engine(hparams: Any) -> Engine:
        engine: Engine = twin_module(name, "engine").Engine(hparams)
        return engine

    def make_inference_engine(hparams: Any) -> InferenceEngine:
        engine: InferenceEngine = twin_module(name, "inference_engine").InferenceEngine(hparams)
        return engine

    def count_processes(num_gpus: int) -> int:
        count: Callable[[int], int] = getattr(twin_module(name, "devices"), "count_processes", lambda _: 1)
        return count(num_gpus)

    return Twin(name, make_engine, make_inference_engine, count_processes)


def installed() -> list[str]:
    """Names of the twins whose framework is installed, 'torch' first."""
    return [name for name in FRAMEWORKS if not _missing(name)]


def default_twin() -> str:
    """The installed twin, 'torch' if both are; a `UserError` if neither is."""
    names = installed()
    if not names:
        raise UserError("neither PyTorch nor JAX is installed: pip install 'dioscuri[torch]'")
    return names[0]


def require(name: str) -> None:
    """If a twin's framework is missing, raise a `UserError` with the command that installs it."""
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
    """Packages of a twin's framework that are not installed; a plain folder of that name does not count."""
    specs = {package: find_spec(package) for package in FRAMEWORKS[name]}
    return [package for package, spec in specs.items() if spec is None or spec.origin is None]
