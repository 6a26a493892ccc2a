"""`python -m dioscuri` is the command `dioscuri`."""

from dioscuri.environment import enter_environment

enter_environment()

from dioscuri.cli.main import main  # noqa: E402 - needs the environment

main()
