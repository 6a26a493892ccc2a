"""Models with groups of latents in the Python interface."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from dioscuri import schedules
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.face.options import options_of_call
from dioscuri.families.latent_models import exploration
from dioscuri.families.latent_models.bounds import log_weight
from dioscuri.families.latent_models.conditions import asked, check_guidance, labelled
from dioscuri.families.latent_models.inputs import (
    read_latents,
    read_temperatures,
)
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.families.latent_models.scores import Bound, bound_of
from dioscuri.inputs import read_classes, read_count, read_pictures

_READING = ("output", "output_temperature")
"""Options for reading the output layer."""
_GUIDED = (*_READING, "guidance_scale")
"""Options of `generate`."""


class LatentModel(Model):
    """A VAE with a hierarchy of latents.

    Calls take `temperature` (one number, one per level or one per latent group) and the options for reading
    the output layer: `output`, 'sample' or 'mean', and `output_temperature`. A model with classes takes
    `classes`, one per picture or one for all. Without them, a model trained with dropped classes uses none,
    and any other model refuses.
    """

    does: tuple[str, ...] = ("encode", "decode", "generate", "reconstruct", "bound", "score")
    _noise_options: ClassVar[tuple[str, ...]] = ("output", "masked", "with_prior")

    @property
    def plan(self) -> LatentPlan:
        """Latent groups and output layer."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 if there are none."""
        return self.plan.num_classes

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(H, W, C) of pictures without padding; (L, C) of sounds and (T, H, W, C) of clips."""
        return self.plan.image_shape

    def encode(
        self,
        pictures: Any,
        *,
        classes: Any = None,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
    ) -> dict[str, Array]:
        """The posterior of every latent group l: `mean.<l>`, `std.<l>`, and a sample, `z.<l>`, each
        (N, h, w, Z)."""
        rows = self._rows(self._pictures(pictures), classes, "encode")
        return self._run("encode", rows, noise=noise, seed=seed, batch_size=batch_size)

    def decode(
        self,
        codes: Any,
        *,
        classes: Any = None,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures from latents `z.<l>` (N, h, w, Z); missing groups are sampled from the prior."""
        rows, masks = read_latents(self.plan, codes)
        rows = labelled(rows, classes, self.hparams, "decode")
        arguments = self._reading(options, "decode") | {"masks": masks}
        arguments |= {"temperatures": read_temperatures(self.plan, temperature)}
        made = self._run("decode", rows, noise=noise, seed=seed, batch_size=batch_size, **arguments)
        return made["image"]

    def generate(
        self,
        n: int | None = None,
        *,
        classes: Any = None,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """n new pictures from the prior, uint8 (n, H, W, C).

        By default n is the number of classes given, or 16. Without `classes`, pictures get all classes of the
        model in turn. `guidance_scale` (0 to 100, usually 0 to 3) moves each prior away from that without a
        class: see `synthesis.guidance_scale`.
        """
        rows = asked(n, classes, self.num_classes)
        arguments = self._reading(options, "generate", _GUIDED)
        arguments |= {"temperatures": read_temperatures(self.plan, temperature)}
        made = self._run("generate", rows, noise=noise, seed=seed, batch_size=batch_size, **arguments)
        return made["image"]

    def reconstruct(
        self,
        pictures: Any,
        *,
        classes: Any = None,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures encoded by the posterior and decoded, uint8 (N, H, W, C)."""
        rows = self._rows(self._pictures(pictures), classes, "reconstruct")
        arguments = self._reading(options, "reconstruct")
        made = self._run("reconstruct", rows, noise=noise, seed=seed, batch_size=batch_size, **arguments)
        return made["image"]

    def bound(
        self,
        pictures: Any,
        *,
        classes: Any = None,
        samples: int = 1,
        prior_levels: Any = (),
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> Bound:
        """Terms of the evidence lower bound, averaged over `samples` samples of the posterior, and the
        importance-weighted bound of these samples.

        The latents of `prior_levels`, counted from the coarsest, 0, come from the prior and cost nothing. If
        these are the finest k levels, the bound is L>k of Havtorn et al. 2021.
        """
        rows, given = self._scored(pictures, classes, prior_levels, "bound")
        n = read_count(samples, "samples")
        run = partial(self._run, "evaluate", rows, noise=None, seed=seed, batch_size=batch_size, **given)
        draws = [run(repeat=k) for k in range(n)]
        reconstruction, kl = (
            np.mean([terms[name].astype(np.float64) for terms in draws], 0)
            for name in ("reconstruction", "kl")
        )
        return bound_of(self.plan, reconstruction, kl, list(map(log_weight, draws)))

    def score(
        self,
        pictures: Any,
        *,
        classes: Any = None,
        samples: int = 16,
        prior_levels: Any = (),
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
    ) -> Bound:
        """The scores of each picture, as the mode `scores` writes them: terms of the bound from the latents
        of `reconstruct`, the importance-weighted bound from `samples` others; `prior_levels` as in `bound`.

        `noise` is a list: that of `reconstruct` with output 'mean', then that of `evaluate` for every sample.
        """
        rows, given = self._scored(pictures, classes, prior_levels, "score")
        n = read_count(samples, "samples")
        if noise is not None and (not isinstance(noise, list | tuple) or len(noise) != n + 1):
            raise UserError(f"noise must be a list of {n + 1}: that of reconstruct and of {n} samples")
        run = partial(self._run, seed=seed, batch_size=batch_size)
        recorded = [None] * (n + 1) if noise is None else noise
        masks = given.get("masks")
        terms = run("reconstruct", rows, noise=recorded[0], output="mean", masks=masks)
        draws = [run("evaluate", rows, noise=recorded[k + 1], repeat=k, **given) for k in range(n)]
        reconstruction, kl = (terms[name].astype(np.float64) for name in ("reconstruction", "kl"))
        return bound_of(self.plan, reconstruction, kl, list(map(log_weight, draws)))

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image", "label") if self.num_classes else ("image",)

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        if name == "label":
            return read_classes(value, self.num_classes, where=name)
        shape = getattr(value, "shape", ())
        if padded and tuple(shape[1:]) == (*self.plan.extent, self.plan.channels):
            return read_pictures(value, tuple(shape[1:]), dtype=self._dtype)
        return self._padded(self._pictures(value))

    def _final_schedules(self) -> dict[str, float]:
        steps, loss = self.hparams.train.total_train_steps, self.hparams.loss
        return {"beta": schedules.beta(steps, loss), "gamma": schedules.gamma(steps, loss)}

    @property
    def _dtype(self) -> type[np.unsignedinteger]:
        return np.uint16 if self.hparams.data.depth > 8 else np.uint8

    def _pictures(self, given: Any, what: str = "pictures") -> Array:
        return read_pictures(given, self.picture_shape, what=what, dtype=self._dtype)

    def _padded(self, pictures: Array) -> Array:
        """Pictures with the zero padding of training, which outputs do not have."""
        edge = (self.plan.crop, self.plan.crop)
        around = [(0, 0), *[edge] * len(self.plan.extent), (0, 0)]
        return np.pad(pictures, around) if self.plan.crop else pictures

    def _rows(self, pictures: Array, classes: Any, call: str) -> dict[str, Array]:
        """Checked pictures and their classes, if they have any, as the network takes them."""
        return labelled({"image": self._padded(pictures)}, classes, self.hparams, call)

    def _scored(
        self, pictures: Any, classes: Any, prior_levels: Any, call: str
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Rows to evaluate, and the arguments of a bound with levels from the prior."""
        rows = self._rows(self._pictures(pictures), classes, call)
        levels = exploration.read_levels(self.plan, prior_levels, "prior_levels")
        if not levels:
            return rows, {}
        given = [g for g, block in enumerate(self.plan.groups) if block.level not in levels]
        return rows, {"masked": True, "masks": exploration.masks_of(self.plan, given)}

    def _reading(
        self, options: Mapping[str, Any], call: str, allowed: Sequence[str] = _READING
    ) -> dict[str, Any]:
        """Options for reading the output layer, and guidance: the run's, updated with the call's."""
        chosen = options_of_call(self.hparams, options, allowed, call)
        arguments = {"output": chosen.output, "output_temperature": chosen.output_temperature}
        if allowed is _READING:
            return arguments
        try:
            check_guidance(chosen.guidance_scale, self.hparams)
        except UserError as error:
            raise UserError(f"{call}: {error}") from error
        return arguments | {"guidance_scale": chosen.guidance_scale or None}
