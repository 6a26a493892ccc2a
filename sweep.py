"""Train every run of a table of experiments: see `python sweep.py --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent


def main() -> None:
    """Enter the project's environment, then do what the command line says."""
    sys.path[0] = str(ROOT)
    from dioscuri.environment import enter_environment  # noqa: PLC0415 - found only now

    enter_environment()
    from dioscuri.cli.sweep import sweep  # noqa: PLC0415 - needs the environment
    from dioscuri.errors import run_command  # noqa: PLC0415 - needs the environment

    run_command(lambda words: sweep(words, ROOT))


if __name__ == "__main__":
    main()
