"""The command `dioscuri`: one module of this folder per subcommand, imported when called."""

from collections.abc import Callable, Sequence
from importlib import import_module

from dioscuri import __version__
from dioscuri.cli.parsers import PROGRAM, Parser
from dioscuri.environment import enter_environment
from dioscuri.errors import UserError, did_you_mean, run_command

COMMANDS = {
    "train": "train a run, or continue it",
    "synthesize": "use a trained run: generate, reconstruct, encode, inpaint and more",
    "evaluate": "compare two sets of pictures (Frechet distance, KID, recall and more), or find foreign ones",
    "compress": "compress pictures without loss with a trained VAE",
    "decompress": "write the pictures of a compressed file",
    "convert": "make a run from published weights or an original checkpoint, or convert back",
    "sweep": "train every run of a table of experiments",
    "describe": "show what a configuration builds and what training it takes: parameters, layers, memory",
    "demo": "show trained models in the browser",
    "completion": "print a shell completion script",
}


def main() -> None:
    """Entry point of `dioscuri` and of `python -m dioscuri`."""
    enter_environment()
    run_command(dispatch)


def dispatch(words: Sequence[str]) -> None:
    """Run a command line without the program's name; a `UserError` for an unknown command."""
    command, *rest = words or ["--help"]
    if command in ("-h", "--help", "help"):
        print(_help(), end="")
    elif command == "--version":
        print(f"{PROGRAM} {__version__}")
    elif command in COMMANDS:
        run: Callable[[Sequence[str]], None] = import_module(f"dioscuri.cli.{command}").main
        run(rest)
    else:
        kind = "option" if command.startswith("-") else "command"
        hint = did_you_mean(command, (*COMMANDS, "--help", "--version"))
        raise UserError(f"unknown {kind} '{command}'{hint}; known: {', '.join(COMMANDS)}")


def command_parser(command: str) -> Parser:
    """The parser of a command."""
    parser: Parser = import_module(f"dioscuri.cli.{command}").make_parser()
    return parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    listing = "".join(f"  {name:{width}}  {what}\n" for name, what in COMMANDS.items())
    return (
        f"usage: {PROGRAM} COMMAND ...\n       {PROGRAM} COMMAND --help\n       {PROGRAM} --version\n\n"
        "Image models in PyTorch and JAX.\n\n"
        f"commands:\n{listing}\n"
        f"examples:\n  {PROGRAM} synthesize --model digits-vae\n"
        f"  {PROGRAM} train egs/hierarchical_vae/digits.cfg train.total_train_steps=200\n"
    )
