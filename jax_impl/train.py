"""Train a run, or go on with it, in JAX.

Usage: python train.py [CFG] [section.option=value ...] [--resume-from DIR]
"""

import sys
from pathlib import Path
from typing import Any

TWIN = Path(__file__).resolve().parent


def main() -> None:
    """Enter the project's environment, then do what the command line says."""
    # In place of this folder, whose `models` and `noise` are no packages of their own.
    sys.path[0] = str(TWIN.parent)
    from dioscuri.environment import enter_environment  # noqa: PLC0415 - found only now

    enter_environment()
    from dioscuri.cli.runs import train_command  # noqa: PLC0415 - needs the environment

    train_command(make_engine, TWIN)


def make_engine(hparams: Any) -> Any:
    """The engine, imported once the command line is known to be right: the import is slow."""
    from jax_impl.engine import Engine  # noqa: PLC0415

    return Engine(hparams)


if __name__ == "__main__":
    main()
