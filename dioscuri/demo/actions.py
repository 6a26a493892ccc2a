"""What the tabs of the demo do: functions of an exhibit and the values of its controls, without a browser.

Pictures that come back are sheets, uint8 (height, width, 3). Wrong values raise a `UserError`.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dioscuri.demo import pictures
from dioscuri.demo.exhibit import Exhibit
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.token_models.face import TokenModel
from dioscuri.outputs.pictures import in_rows

MOST_PICTURES = 64
MOST_FILM = 2**27
"""Bytes of all pictures of a film."""
BATCH = 16
"""Rows that go through a network at once: a call can be cancelled between batches."""
N_SLIDERS = 8
SAMPLE = "a photo"
"""Prompt of the samples to work on without an upload."""

Options = Mapping[str, Any]


class Made(NamedTuple):
    """A sheet or, of a model of text, the texts; and the pictures of every step (N, T, H, W, C), if asked."""

    sheet: Array | None
    steps: Array | None = None
    texts: str = ""


class Comparison(NamedTuple):
    """Sheets of the first twin, of the second and of their difference, and what there is to say of them."""

    first: Array
    second: Array
    apart: Array
    says: str


def conditions(exhibit: Exhibit, n: int, classes: str, prompt: str, negative: str = "") -> dict[str, Any]:
    """Arguments of `generate` for n pictures from typed classes '3, 7', used in turn, and prompts."""
    asked = in_turn(classes, n)
    if exhibit.reads_text:
        asked["texts"] = exhibit.encoded(prompt, negative)
    return asked


def in_turn(typed: str, n: int = 1) -> dict[str, Any]:
    """The argument `classes` of a call for n pictures, from typed classes in turn; none if there are none."""
    return {"classes": np.resize(read_classes(typed), n)} if typed.strip() else {}


def read_classes(typed: str) -> Array:
    """Numbers separated by commas or blanks."""
    words = typed.replace(",", " ").split()
    if not all(word.isdecimal() and len(word) < 9 for word in words):
        raise UserError(f"classes must be whole numbers separated by commas, not '{typed[:40]}'")
    return np.array([int(word) for word in words], np.int32)


def count(value: Any, what: str = "number of pictures", most: int = MOST_PICTURES) -> int:
    """A whole number from 1 to `most`."""
    if value is None or not 1 <= value <= most or value != int(value):
        raise UserError(f"{what} must be a whole number from 1 to {most}, not {value}")
    return int(value)


def seed_of(value: Any) -> int:
    """A seed: a whole number from 0 on."""
    if value is None or not 0 <= value < 2**31 or value != int(value):
        raise UserError(f"seed must be a whole number from 0 to {2**31 - 1}, not {value}")
    return int(value)


def generate(exhibit: Exhibit, n: int, seed: int, asked: Options, options: Options, *, film: bool) -> Made:
    """New pictures; with `film` also what a token model predicts in every step."""
    model, call = exhibit.model, {"seed": seed, "batch_size": BATCH, **asked, **options}
    if exhibit.writes_text:
        return Made(None, texts="\n\n".join(model.generate(n, **call)))
    if not film or not isinstance(model, TokenModel):
        return Made(pictures.shown(model.generate(n, **call)))
    steps = options.get("steps", model.hparams.synthesis.steps)
    if (bytes_ := n * steps * int(np.prod(exhibit.picture_shape))) > MOST_FILM:
        raise UserError(
            f"the film of {n} pictures and {steps} steps has {bytes_:,} bytes: take fewer pictures or steps"
        )
    drawn = model.generate(n, every_step=True, **call)
    return Made(pictures.shown(drawn[:, -1]), drawn)


def inpaint(
    exhibit: Exhibit, picture: Array | None, mask: Array, n: int, seed: int, asked: Options, options: Options
) -> Array:
    """The picture, what of it is known, and n ways to fill where the mask (H, W) is True."""
    picture = _given(picture)
    filled = exhibit.model.inpaint(
        picture[None].repeat(n, 0), mask, seed=seed, batch_size=BATCH, **asked, **options
    )
    known = np.where(mask[..., None], np.uint8(128), picture)
    return pictures.shown([np.stack([picture, known]), filled], [["picture", "known"], ["filled"]])


def outpaint(
    picture: Array | None, grid: int, share: float, across: float, down: float
) -> tuple[Array, Array]:
    """The picture shrunk to a share of its side, and the mask (H, W) of what lies around it.

    The picture covers whole tokens; `across` and `down` say where it lies: 0 left or top, 1 right or bottom.
    """
    picture = _given(picture)
    H, W, C = picture.shape
    tokens = min(max(round(share * grid), 1), grid - 1)
    side, top, left = H * tokens // grid, round(down * (grid - tokens)), round(across * (grid - tokens))
    box = np.s_[H * top // grid : H * top // grid + side, W * left // grid : W * left // grid + side]
    small = pictures.resized(picture, side)
    placed, mask = np.zeros((H, W, C), np.uint8), np.ones((H, W), bool)
    placed[box], mask[box] = small, False
    return placed, mask


def edit(
    exhibit: Exhibit,
    picture: Array | None,
    strength: float,
    n: int,
    seed: int,
    asked: Options,
    options: Options,
) -> Array:
    """The picture and n others like it, of which a share of the tokens, by `strength` from 0 to 1, is sampled
    again as the prompt says."""
    picture = _given(picture)
    edited = exhibit.model.edit(
        picture[None].repeat(n, 0), strength=strength, seed=seed, batch_size=BATCH, **asked, **options
    )
    return pictures.shown([picture[None], *in_rows(edited)], [["picture"]])


def reconstruct(exhibit: Exhibit, picture: Array | None, classes: str = "") -> tuple[Array, str]:
    """The picture beside its reconstruction, and how good that is; of a VAE given the typed class."""
    picture, model, asked = _given(picture), exhibit.model, in_turn(classes)
    options: dict[str, Any] = {"output": "mean"} if "bound" in model.does else {}
    back = model.reconstruct(picture[None], **options, **asked)
    _, largest = pictures.difference(picture[None], back)
    says = f"largest difference {largest} of 255, mean {abs(picture.astype(int) - back[0]).mean():.1f}"
    if "bound" in model.does:
        says += f"; the bound is {model.bound(picture[None], **asked).bits_per_dim:.2f} bits/dim"
    return pictures.shown([np.stack([picture, back[0]])], [["picture", "reconstruction"]]), says


def interpolate(exhibit: Exhibit, a: Array | None, b: Array | None, n: int, classes: str = "") -> Array:
    """n pictures from a to b, in a row; typed classes are that of both, or one of each."""
    ends = _given(a, "first picture"), _given(b, "second picture")
    both = in_turn(classes, 2).get("classes")
    asked = {} if both is None else {"classes": both[0], "classes_b": both[1]}
    return pictures.shown([exhibit.model.interpolate(*ends, n=n, **asked)])


def groups(exhibit: Exhibit) -> list[str]:
    """The latent groups in words, coarsest first."""
    named = []
    for group, block in enumerate(exhibit.model.plan.groups):  # type: ignore[attr-defined] # a model of latents
        size = "x".join(map(str, block.grid))
        named.append(f"level {block.level} ({size}), group {group}")
    return named


def change_latents(
    exhibit: Exhibit,
    picture: Array | None,
    group: int,
    shifts: Any,
    *,
    keeps_later: bool,
    seed: int,
    classes: str = "",
) -> Array:
    """The picture, what its latents decode to, and what they decode to when the first variates of a group are
    shifted, by so many standard deviations of the model's samples, at all positions.

    The latents of later groups stay, or come from the prior, with the same noise for both.
    """
    picture, model, name = _given(picture), exhibit.model, f"z.{group}"
    asked = in_turn(classes)
    z = _latents(exhibit, picture, seed, asked)
    if not keeps_later:
        z = {key: z[key] for key in list(z)[: group + 1]}
    by = np.zeros(z[name].shape[-1], np.float32)
    by[: len(shifts)] = shifts
    decoded = [
        model.decode(latents, output="mean", seed=seed, **asked)[0]
        for latents in (z, z | {name: z[name] + by * exhibit.spread[name]})
    ]
    return pictures.shown([np.stack([picture, *decoded])], [["picture", "not shifted", "shifted"]])


def keep(
    exhibit: Exhibit,
    picture: Array | None,
    k: int,
    n: int,
    seed: int,
    temperature: float | None,
    classes: str = "",
) -> tuple[Array, str]:
    """The picture, encoded given the first of the typed classes, and n pictures that share its first k latent
    groups; their other latents come from the prior, given the typed classes in turn."""
    picture, model = _given(picture), exhibit.model
    z = _latents(exhibit, picture, seed, in_turn(classes))
    first = {name: z[name].repeat(n, 0) for name in list(z)[:k]}
    drawn = model.decode(
        first,
        seed=seed,
        output="mean",
        batch_size=BATCH,
        temperature=1.0 if temperature is None else temperature,
        **in_turn(classes, n),
    )
    says = f"the first {k} of {len(z)} latent groups are those of the picture"
    return pictures.shown([picture[None], *in_rows(drawn)], [["picture"]]), says


def classify(exhibit: Exhibit, picture: Array | None) -> dict[str, float]:
    """Probability of every class, by its number."""
    logits = exhibit.model.encode(_given(picture)[None])["logits"][0].astype(np.float64)
    shares = np.exp(logits - logits.max())
    return {str(number): float(share) for number, share in enumerate(shares / shares.sum())}


def compare(exhibit: Exhibit, n: int, seed: int, asked: Options, options: Options) -> Comparison:
    """Pictures of both twins from the same noise, drawn by numpy from the seed."""
    first, second = exhibit.model, exhibit.other()
    tokens = isinstance(first, TokenModel)
    of_noise = options if tokens else {"output": options.get("output", first.hparams.synthesis.output)}
    noise = first.draw_noise("generate", n, seed=seed, **of_noise)
    call = {"noise": noise, "batch_size": BATCH, **asked, **options}
    if tokens:
        ids, others = (model.generate(n, decode=False, **call) for model in (first, second))
        a, b = first.decode(ids, batch_size=BATCH), second.decode(others, batch_size=BATCH)
        different = f"; {np.count_nonzero(ids != others)} of {ids.size} tokens differ"
    else:
        a, b, different = first.generate(n, **call), second.generate(n, **call), ""
    apart, largest = pictures.difference(a, b)
    says = f"largest difference {largest} of 255, in {np.count_nonzero(apart)} of {apart.size} values"
    return Comparison(pictures.shown(a), pictures.shown(b), pictures.shown(apart), says + different)


def sample(exhibit: Exhibit, seed: int) -> Array:
    """One picture (H, W, C) of the model, to work on without an upload; of models with classes, their classes
    by seed."""
    options: dict[str, Any] = {"output": "mean"} if "interpolate" in exhibit.model.does else {}
    if exhibit.num_classes:
        options["classes"] = seed % exhibit.num_classes
    if exhibit.reads_text:
        options["texts"] = exhibit.encoded("" if exhibit.encoder else SAMPLE)
    drawn: Array = exhibit.model.generate(1, seed=seed, **options)[0]
    return drawn


def _latents(exhibit: Exhibit, picture: Array, seed: int, asked: Options) -> dict[str, Array]:
    encoded = exhibit.model.encode(picture[None], seed=seed, **asked)
    return {name: array for name, array in encoded.items() if name.startswith("z.")}


def _given(picture: Array | None, what: str = "picture") -> Array:
    if picture is None:
        raise UserError(f"{what}: upload one, or take a sample of the model")
    return picture
