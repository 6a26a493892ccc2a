"""`dioscuri train`: train a run, or continue it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dioscuri.cli.parsers import Parser, add_twin, add_words
from dioscuri.cli.runs import sort_words, train
from dioscuri.places import here
from dioscuri.twins import default_twin, open_twin

_USAGE = "[CFG] [section.option=value ...] [--twin torch|jax] [--resume-from DIR]"
_DESCRIPTION = """\
Train a run, or continue it. CFG is a configuration: a file, or the name of a shipped one such as
egs/vqgan/digits.cfg (default: egs/hierarchical_vae/digits.cfg). Override any of its options with
section.option=value. The run is stored in logs-<run.name> in the working directory (in a clone: in the twin's
folder) unless run.root or the environment variable DIOSCURI_RUNS names another folder. The same command
continues a run that was stopped. `dioscuri describe CFG` shows what it builds."""
_EXAMPLE = "dioscuri train egs/hierarchical_vae/digits.cfg run.name=mine train.total_train_steps=200"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("train", _USAGE, _DESCRIPTION, _EXAMPLE)
    add_words(parser)
    add_twin(parser)
    parser.add_argument(
        "--resume-from",
        type=Path,
        metavar="DIR",
        help="run of either twin to continue from",
    )
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, parser.usage_line)
    twin = open_twin(chosen.twin or default_twin())
    train(twin, here().home(twin.name), replace(arguments, resume_from=chosen.resume_from))
