"""Tell how near samples are to real pictures: see `python evaluate.py --help`."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Enter the project's environment, then do what the command line says."""
    sys.path[0] = str(Path(__file__).resolve().parent)
    from dioscuri.environment import enter_environment  # noqa: PLC0415 - found only now

    enter_environment()
    from dioscuri.cli.evaluate import evaluate  # noqa: PLC0415 - needs the environment
    from dioscuri.errors import run_command  # noqa: PLC0415 - needs the environment

    run_command(lambda words: evaluate(words, make_engine, make_network))


def make_engine(twin: str, hparams: Any) -> Any:
    """The engine of a twin, 'torch' or 'jax', imported when it is needed: the import is slow."""
    return import_module(f"{twin}_impl.engine").Engine(hparams)


def make_network(twin: str, name: str, weights: str) -> Any:
    """A published network as a function of pictures, and what it is."""
    return import_module(f"{twin}_impl.extractors").open_network(name, weights)


if __name__ == "__main__":
    main()
