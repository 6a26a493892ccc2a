"""`dioscuri synthesize`: use a trained run, or a model that ships with Dioscuri."""

from collections.abc import Sequence
from textwrap import fill

from dioscuri.cli.parsers import Parser, add_twin, add_words
from dioscuri.cli.prompted import add_prompts, draw, is_asked
from dioscuri.cli.runs import Arguments, sort_words, synthesize
from dioscuri.errors import UserError
from dioscuri.library.model_run import run_of_model
from dioscuri.library.sources import shipped
from dioscuri.places import here
from dioscuri.twins import default_twin, open_twin

_USAGE = """\
[CFG] [section.option=value ...] [--twin torch|jax]
--model MODEL [section.option=value ...] [--twin torch|jax]
--model MODEL --prompt TEXT [--image FILE [--mask FILE]] [section.option=value ...]"""
_DESCRIPTION = """\
Use a trained run. CFG and overrides name a run that `dioscuri train` has trained; synthesis.synthesis_mode
says what to do with it, and section [synthesis] how. The output goes to the run's folder. With --model, use a
trained model: the run logs-MODEL is made from it the first time, and the mode is generation unless an
override says otherwise. MODEL is a model folder, a model of the hub, owner/model, or a shipped model:
"""
_PROMPTS = """

With --prompt or --image, a masked token model draws from a text, edits a picture, or fills its masked region.
Overrides are then options of sampling, synthesis.n_pictures, synthesis.classes, run.seed and run.root.
"""
_EXAMPLE = "dioscuri synthesize --model digits-vae run.seed=1"


def make_parser() -> Parser:
    """The command's parser."""
    names = fill(", ".join(shipped()), 110, break_on_hyphens=False)
    parser = Parser("synthesize", _USAGE, _DESCRIPTION + names + _PROMPTS, _EXAMPLE)
    add_words(parser)
    parser.add_argument("--model", default="", help="the model to use instead of a run")
    add_prompts(parser)
    add_twin(parser)
    return parser


def main(words: Sequence[str]) -> None:
    """Run a command line."""
    parser = make_parser()
    chosen = parser.parse_intermixed_args(list(words))
    arguments = sort_words(chosen.words, parser.usage_line)
    asked = is_asked(chosen)
    twin = open_twin(chosen.twin or default_twin())
    home = here().home(twin.name)
    if chosen.model:
        if len(arguments.overrides) < len(chosen.words):
            raise UserError(f"give a configuration or --model, not both; {parser.usage_line}")
        if asked:
            draw(chosen, twin.name, home, arguments.overrides)
            return
        with run_of_model(chosen.model, home, arguments.overrides) as given:
            synthesize(twin, home, Arguments(*given))
        return
    synthesize(twin, home, arguments)
