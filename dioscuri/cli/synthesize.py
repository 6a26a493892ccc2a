"""`dioscuri synthesize`: use a trained run."""

from collections.abc import Sequence

from dioscuri.cli.parsers import Parser, add_twin, add_words
from dioscuri.cli.runs import sort_words, synthesize
from dioscuri.places import here
from dioscuri.twins import default_twin, open_twin

_USAGE = "[CFG] [section.option=value ...] [--twin torch|jax]"
_DESCRIPTION = """\
Use a trained run. CFG and overrides name a run that `dioscuri train` has trained; synthesis.synthesis_mode
says what to do with it, and section [synthesis] how. The output goes to the run's folder."""
_EXAMPLE = "dioscuri synthesize egs/hierarchical_vae/digits.cfg synthesis.synthesis_mode=generation"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("synthesize", _USAGE, _DESCRIPTION, _EXAMPLE)
    add_words(parser)
    add_twin(parser)
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, parser.usage_line)
    twin = open_twin(chosen.twin or default_twin())
    synthesize(twin, here().home(twin.name), arguments)
