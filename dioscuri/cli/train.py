"""`dioscuri train`: train a run, or go on with it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from dioscuri.cli.parsers import Parser, add_twin, add_words
from dioscuri.cli.runs import sort_words, train
from dioscuri.places import here
from dioscuri.twins import default_twin, open_twin

_USAGE = "[CFG] [section.option=value ...] [--twin torch|jax] [--resume-from DIR]"
_DESCRIPTION = """\
Train a run, or go on with it. CFG is a configuration: a file, or the name of a shipped one, such as
egs/vqgan/digits.cfg (without one: egs/hierarchical_vae/digits.cfg). Any of its options can be given as
section.option=value. The run lies in logs-<run.name> of the working directory (in a clone: of the twin's
folder) unless run.root or the environment variable DIOSCURI_RUNS names another folder. The same command goes
on with a run that was stopped. `dioscuri describe CFG` tells what it builds."""
_EXAMPLE = "dioscuri train egs/hierarchical_vae/digits.cfg run.name=mine train.total_train_steps=200"


def make_parser() -> Parser:
    """The command's words."""
    parser = Parser("train", _USAGE, _DESCRIPTION, _EXAMPLE)
    add_words(parser)
    add_twin(parser)
    parser.add_argument(
        "--resume-from",
        type=Path,
        metavar="DIR",
        help="run of either twin whose checkpoint to go on from",
    )
    return parser


def main(words: Sequence[str]) -> None:
    """Do what a command line says."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, f"usage: {parser.usage}")
    twin = open_twin(chosen.twin or default_twin())
    train(twin, here().home(twin.name), replace(arguments, resume_from=chosen.resume_from))
