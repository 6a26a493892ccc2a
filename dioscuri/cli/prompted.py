"""`dioscuri synthesize --model MODEL` with prompts or a picture: what a model draws from them."""

import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.cli.parsers import Parser
from dioscuri.data.image_files import decode, naming, read_mask
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import Model
from dioscuri.hparams.expressions import evaluate
from dioscuri.hparams.overrides import SOURCE, parse
from dioscuri.inputs import check_names, read_count, unknown_tokens
from dioscuri.library.load import load
from dioscuri.outputs.pictures import in_rows, save_grid, save_picture
from dioscuri.outputs.settings import finished_folder
from dioscuri.places import runs_folder
from dioscuri.versions import versions

_CALLS = {"run.seed": "seed", "synthesis.n_pictures": "n", "synthesis.classes": "classes"}
"""Options of a `.cfg` that are arguments of a call."""
_MODES = {"generate": "generated", "edit": "edited", "inpaint": "inpainted"}


def add_prompts(parser: Parser) -> None:
    """The options that go with `--model`."""
    parser.add_argument(
        "--prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to draw; repeat the option for more pictures",
    )
    parser.add_argument(
        "--negative-prompt",
        action="append",
        default=[],
        metavar="TEXT",
        help="what to avoid, in all pictures",
    )
    parser.add_argument(
        "--text-encoder",
        metavar="ENCODER",
        help="encoder of prompts, a folder or hub id, if MODEL has none",
    )
    parser.add_argument("--image", type=Path, metavar="FILE", help="picture to edit, or to fill with --mask")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="picture that is white where the model draws again"
    )
    parser.add_argument(
        "--strength", type=float, metavar="S", help="share of the steps that edit the picture, 0 to 1"
    )


def is_asked(chosen: Namespace) -> bool:
    """Whether the words ask for what `draw` does; a `UserError` if options do not go together."""
    if chosen.mask and not chosen.image:
        raise UserError("--mask needs the picture: give --image FILE")
    if chosen.strength is not None and not chosen.image:
        raise UserError("--strength is for editing a picture: give --image FILE")
    if chosen.negative_prompt and not chosen.prompt:
        raise UserError("--negative-prompt goes with --prompt: give that too")
    if chosen.text_encoder and not chosen.prompt:
        raise UserError("--text-encoder goes with --prompt: give that too")
    asked = bool(chosen.prompt or chosen.image)
    if asked and not chosen.model:
        raise UserError("--prompt and --image are for a trained model: name it with --model")
    return asked


def draw(chosen: Namespace, twin: str, home: Path, words: Sequence[str]) -> None:
    """Draw, and write the pictures, a sheet and `settings.json` into a folder of these settings."""
    model = load(twin, chosen.model, text_encoder=chosen.text_encoder)
    root, options = _options(words, model)
    method = "generate" if not chosen.image else "inpaint" if chosen.mask else "edit"
    if method not in model.does:
        raise UserError(f"--model {chosen.model}: a model of family '{model.family}' cannot {method}")
    prompts = {"prompts": chosen.prompt, "negative_prompts": chosen.negative_prompt}
    prompts = {name: texts for name, texts in prompts.items() if texts}
    if chosen.strength is not None:
        options["strength"] = chosen.strength
    name = Path(chosen.model).name
    settings = _settings(model, name, method, {**prompts, **options}, chosen)
    given = _pictures(chosen, model, options, len(chosen.prompt))
    with _told():
        made = getattr(model, method)(*given, **prompts, **options)
    with finished_folder(runs_folder(root, home) / f"prompts-{name}", _MODES[method], settings) as folder:
        for i, picture in enumerate(made):
            save_picture(folder, f"image-{i:04d}", picture)
        sheet = save_grid(folder / "contact-sheet.png", in_rows(made))
    print(f"{len(made)} pictures in {folder}; the first of them: {sheet}")


def _options(words: Sequence[str], model: Model) -> tuple[str, dict[str, Any]]:
    """The folder of runs, if it is named, and arguments of a call."""
    root, options = "", {}
    names = getattr(model, "sampling_options", ())
    known = [*_CALLS, "run.root", *(f"synthesis.{name}" for name in names)]
    for setting in parse(words):
        name = f"{setting.section}.{setting.option}"
        check_names([name], known, f"{SOURCE}: with --prompt or --image, option")
        if name == "run.root":
            root = setting.text
        else:
            options[_CALLS.get(name, setting.option)] = evaluate(setting.text, setting.where)
    return root, options


def _pictures(chosen: Namespace, model: Model, options: dict[str, Any], n_prompts: int) -> tuple[Any, ...]:
    """The picture as often as it is drawn, and the mask."""
    if not chosen.image:
        return ()
    side, _, channels = model.picture_shape
    with naming("--image", chosen.image):
        picture = decode(chosen.image, side, channels)
    n = max(read_count(options.pop("n", 1), "synthesis.n_pictures"), n_prompts)
    pictures = np.tile(picture, (n, 1, 1, 1))
    return (pictures, _mask(chosen, model)) if chosen.mask else (pictures,)


def _mask(chosen: Namespace, model: Any) -> Array:
    """The mask in pixels of the model, from a picture of its size or of that of `--image`."""
    side, grid = model.picture_shape[0], model.grid
    if not grid:
        raise UserError(
            f"--mask {chosen.mask}: the tokens of this model have no place in the picture: leave --mask out"
        )
    white = read_mask("--mask", chosen.mask, side, "--image", chosen.image)
    tokens = unknown_tokens(white[None], (grid, grid), f"--mask {chosen.mask}").reshape(grid, grid)
    return tokens.repeat(side // grid, 0).repeat(side // grid, 1)


def _settings(
    model: Any, name: str, method: str, options: Mapping[str, Any], chosen: Namespace
) -> dict[str, Any]:
    """Everything that the pictures depend on."""
    files = {"image": chosen.image, "mask": chosen.mask}
    return {
        "mode": method,
        "model": name,
        "checkpoint": {"sha256": model._hash()},
        "family": model.family,
        "seed": options.get("seed", 0),
        "twin": model.twin,
        "precision": model.hparams.train.precision,
        "versions": versions(),
        "options": {key: value for key, value in options.items() if key != "seed"},
        **{key: str(path.absolute()) for key, path in files.items() if path},
        **({"text_encoder": chosen.text_encoder} if chosen.text_encoder else {}),
    }


@contextmanager
def _told() -> Iterator[None]:
    """Print warnings, such as that of a prompt that is cut."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(f"note: {warning.message}")
