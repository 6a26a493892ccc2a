"""Train a run, or continue it, in JAX.

Usage: python train.py [CFG] [section.option=value ...] [--resume-from DIR]
"""

import sys
from pathlib import Path


def main() -> None:
    """Enter the project's environment, then run the command line."""
    # Replaces this folder on the path: its `models` and `noise` must not be importable as top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment  # noqa: PLC0415 - found only now

    enter_environment()
    from dioscuri.cli.runs import script  # noqa: PLC0415 - needs the environment

    script("train", "jax")


if __name__ == "__main__":
    main()
