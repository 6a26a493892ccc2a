"""Use a trained run in PyTorch.

Usage: python synthesize.py [CFG] [section.option=value ...]
"""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

TWIN = Path(__file__).resolve().parent


def main() -> None:
    """Enter the project's environment, then do what the command line says."""
    # In place of this folder, whose `models` and `noise` are no packages of their own.
    sys.path[0] = str(TWIN.parent)
    from dioscuri.environment import enter_environment  # noqa: PLC0415 - found only now

    enter_environment()
    from dioscuri.cli.runs import synthesize_command  # noqa: PLC0415 - needs the environment

    synthesize_command(
        make_engine,
        TWIN,
        count_processes=lambda num_gpus: import_module("torch_impl.devices").count_processes(num_gpus),
    )


def make_engine(hparams: Any) -> Any:
    """The engine, imported once the command line is known to be right: the import is slow."""
    from torch_impl.engine import Engine  # noqa: PLC0415

    return Engine(hparams)


if __name__ == "__main__":
    main()
