"""What the modes that explore and score read: pictures of a split or files, alone or in pairs, and how they
encode and decode them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.data import Examples, pipeline
from dioscuri.data.classes import renumbered
from dioscuri.data.descriptors import describe
from dioscuri.data.folders import open_pictures
from dioscuri.data.image_files import open_image
from dioscuri.data.options import picture_shape
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.latent_models.conditions import check_walked, known_classes, walked
from dioscuri.families.latent_models.exploration import check_finite
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.hparams.sections import Data
from dioscuri.outputs.examples import batches, chosen_split

FIRST, SECOND = "[synthesis] pictures_path", "[synthesis] second_pictures_path"


def chosen_pictures(context: Context) -> tuple[Examples, dict[str, Any]]:
    """The pictures of `synthesis.pictures_path`, or of a split; and what the settings say of them."""
    options = context.hparams.synthesis
    if not options.pictures_path:
        return chosen_split(context, "test"), {"split": options.split or "test"}
    return _opened(context, options.pictures_path, FIRST)


def chosen_indices(context: Context, pictures: Examples, few: int) -> Array:
    """Indices of the first `synthesis.n_samples` pictures; 0 asks for all files, or for a few of a split."""
    options = context.hparams.synthesis
    n = options.n_samples or (len(pictures) if options.pictures_path else few)
    return np.arange(min(n, len(pictures)))


@dataclass(frozen=True)
class Pairs:
    """Pictures in pairs, by their `indices` (N, 2)."""

    first: Examples
    second: Examples
    indices: Array
    settings: dict[str, Any]

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, context: Context, what: str) -> Iterator[tuple[Batch, Batch]]:
        """The first and the second pictures in padded batches, with a progress bar."""
        size = context.hparams.synthesis.batch_size
        others = pipeline.evaluation_batches(
            self.second, context.hparams, batch_size=size, indices=self.indices[:, 1]
        )
        return zip(batches(context, self.first, self.indices[:, 0], what), others, strict=True)


def chosen_pairs(context: Context, few: int) -> Pairs:
    """Pairs of two sets of files, or pictures of one set that follow each other; a `UserError` says why they
    make none."""
    options = context.hparams.synthesis
    first, settings = chosen_pictures(context)
    check_walked(first, context.hparams)
    numbers = chosen_indices(context, first, 2 * few)
    if not options.second_pictures_path:
        if len(numbers) < 2 or len(numbers) % 2:
            raise UserError(
                f"{options.pictures_path or first.name}: pairs need an even number of pictures, not "
                f"{len(numbers)}; or give the second ones as synthesis.second_pictures_path"
            )
        indices = numbers.reshape(-1, 2)
        if options.pictures_path:
            _check_sizes(first, first, indices)
        return Pairs(first, first, indices, settings)
    second, more = _opened(context, options.second_pictures_path, SECOND)
    check_walked(second, context.hparams)
    if len(first) != len(second):
        raise UserError(
            f"{FIRST} {options.pictures_path} and {SECOND} {options.second_pictures_path} must hold the same "
            f"number of pictures, not {len(first)} and {len(second)}"
        )
    indices = np.stack([numbers, numbers], 1)
    _check_sizes(first, second, indices)
    return Pairs(first, second, indices, settings | {"second_pictures": more["pictures"]})


class Coder:
    """Encodes batches and decodes latents, with the same noise in every call."""

    def __init__(self, context: Context, plan: LatentPlan, index: int) -> None:
        self._context, self._index = context, index
        setting = context.hparams.synthesis.temperature_settings[0]
        self._temperatures = level_temperatures(plan, setting)

    def encode(self, batch: Batch) -> dict[str, Array]:
        """What `encode` gives, with the prior's statistics and the classes; a `UserError` if they are not
        finite."""
        hparams, index = self._context.hparams, self._index
        rows = walked(batch, hparams, index * hparams.synthesis.batch_size)
        encoded = self._context.engine.run(
            "encode", rows, ema=hparams.synthesis.load_ema_weights, step=index, with_prior=True
        )
        check_finite(encoded, f"the pictures of batch {index}")
        return encoded | known_classes(rows)

    def decode(self, latents: dict[str, Array], masks: list[Array]) -> Array:
        """Examples (B, ...); where the masks are 0, latents come from the prior at the first temperature."""
        options = self._context.hparams.synthesis
        return self._context.engine.run(
            "decode",
            latents,
            temperatures=self._temperatures,
            ema=options.load_ema_weights,
            step=self._index,
            masks=masks,
            output=options.output,
            output_temperature=options.output_temperature,
        )["image"]


def _opened(context: Context, text: str, option: str) -> tuple[Examples, dict[str, Any]]:
    hparams = context.hparams
    pictures: Examples = open_pictures(hparams, text, option)
    names = context.sets.class_names or tuple(map(str, range(hparams.model.num_classes)))
    if hparams.data.labels and names:
        pictures = renumbered(pictures, names, f"{option} {text}")
    for note in (*pictures.notes, *_conversions(pictures, hparams.data)):
        context.say(f"note: {note}")
    digest = hashlib.sha256("\n".join(pictures.keys).encode()).hexdigest()
    return pictures, {"pictures": {"n": len(pictures), "sha256": digest}}


def _conversions(pictures: Any, data: Data) -> list[str]:
    """A line on files that are resized or change their colours for the model, if there are any."""
    H, W, C = picture_shape(data, describe(data.dataset_source))
    model, others = f"{W}x{H} {'grey' if C == 1 else 'RGB'}", []
    for name in pictures.read.names:
        with open_image(Path(name)) as image:
            kind = f"{image.width}x{image.height} {'grey' if image.mode in ('1', 'L') else image.mode}"
        others += [] if kind == model else [f"{name} ({kind})"]
    n = len(pictures)
    return [f"{len(others)} of {n} pictures become {model}, the first is {others[0]}"] if others else []


def _check_sizes(first: Any, second: Any, indices: Array) -> None:
    """Raise a `UserError` for the first pair of files of different sizes."""
    for i, j in indices:
        # Both sets are of `open_pictures`, whose readers name their files.
        one, other = Path(first.read.names[i]), Path(second.read.names[j])
        with open_image(one) as a, open_image(other) as b:
            if a.size != b.size:
                raise UserError(
                    f"{one} is {a.width}x{a.height} and {other} {b.width}x{b.height}: give pairs of one size"
                )
