"""Models whose latents can be explored: the part of the Python interface."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.engine import Array
from dioscuri.face.model import BATCH_SIZE
from dioscuri.face.recorded import checked_noise
from dioscuri.families.latent_models import exploration
from dioscuri.families.latent_models.conditions import known_classes
from dioscuri.families.latent_models.exploration import HELD, RESTS, Decode, Variate
from dioscuri.families.latent_models.face import LatentModel
from dioscuri.families.latent_models.inputs import read_one_or_more, read_pairs, read_temperatures
from dioscuri.inputs import read_count

N_CUTS = 8
"""Default number of mixtures of two pictures."""


class ExplorableModel(LatentModel):
    """A VAE that also walks through its latents, from pictures to pictures or along single variates."""

    does: tuple[str, ...] = (*LatentModel.does, "interpolate", "traverse", "mix")

    def interpolate(
        self,
        a: Any,
        b: Any,
        n: int = 8,
        *,
        classes: Any = None,
        classes_b: Any = None,
        path: str = "linear",
        levels: Any = (),
        rest: str = HELD,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """n pictures from the latents of a to those of b, ends included, on a 'linear' or 'spherical' `path`.

        Only the `levels` given, counted from the coarsest, 0, move. The `rest` is 'held' at a's latents, or
        comes from the 'prior' at the `temperature`, with the same noise in every picture. For two pictures
        (H, W, C) the result is (n, H, W, C), for two batches (N, H, W, C) it is (N, n, H, W, C). `noise` is
        that of `encode` for N pictures (with `output`, if that is 'sample'): a and b share it.

        `classes` are those of a, `classes_b` those of b if they differ: a picture gets that of the nearer
        end.
        """
        (first, last), single = read_pairs(a, b, self.picture_shape, self._dtype)
        chosen: dict[str, Any] = {
            "path": exploration.read_choice(path, exploration.PATHS, "path"),
            "levels": exploration.read_levels(self.plan, levels, "levels"),
            "rest": exploration.read_choice(rest, RESTS, "rest"),
        }
        exploration.check_rest(chosen["rest"], chosen["levels"], temperature)
        n = read_count(n, "n", low=2, high=exploration.MOST_FRAMES)
        call = {"temperature": temperature, "seed": seed, "noise": noise, "batch_size": batch_size}
        start, decode = self._walk("interpolate", first, options, classes, **call)
        end, _ = self._walk("interpolate", last, options, _other(classes_b, classes), **call)
        film = exploration.film(self.plan, start, end, n, decode, **chosen)
        return film[0] if single else film

    def traverse(
        self,
        pictures: Any,
        variates: Any = None,
        n: int = 7,
        *,
        classes: Any = None,
        spread: float = 3.0,
        rest: str = HELD,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures with one variate after the other set to n values, from `spread` standard deviations of its
        prior below the prior's mean to as many above: (N, variates, n, H, W, C), of one picture without N.

        `variates` are pairs (group, variate), or groups, all of whose variates change together; None: the 8
        of `top_variates`. The `rest`, the finer groups, is 'held' or comes from the 'prior' at the
        `temperature`. `noise` is that of `encode`.
        """
        rows, single = read_one_or_more(pictures, self.picture_shape, self._dtype, "pictures")
        far = exploration.read_spread(spread)
        offsets = np.linspace(-far, far, read_count(n, "n", low=2, high=exploration.MOST_FRAMES))
        read_rest = exploration.read_choice(rest, RESTS, "rest")
        exploration.check_rest(read_rest, None, temperature)
        chosen = (
            self.top_variates(rows, classes=classes, seed=seed, batch_size=batch_size)
            if variates is None
            else exploration.read_variates(self.plan, variates, "variates")
        )
        call = {"temperature": temperature, "seed": seed, "noise": noise, "batch_size": batch_size}
        encoded, decode = self._walk("traverse", rows, options, classes, **call)
        made = [
            exploration.traversal(self.plan, encoded, variate, offsets, decode, rest=read_rest)
            for variate in chosen
        ]
        return np.stack(made, 1)[0] if single else np.stack(made, 1)

    def top_variates(
        self,
        pictures: Any,
        n: int = 8,
        *,
        classes: Any = None,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> list[Variate]:
        """The n (group, variate) of the highest divergence on these pictures, per element of the grid."""
        rows = self._rows(self._pictures(pictures), classes, "top_variates")
        terms = self._run("divergence_statistics", rows, noise=None, seed=seed, batch_size=batch_size)
        groups = range(len(self.plan.groups))
        statistics = [terms[f"kl.{group}"].astype(np.float64).mean(0) for group in groups]
        return exploration.ranked(statistics, read_count(n, "n"))

    def mix(
        self,
        a: Any,
        b: Any,
        cuts: Any = None,
        *,
        classes: Any = None,
        classes_b: Any = None,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures of the coarsest k latent groups of a and all finer ones of b, for every k of `cuts` (None:
        up to 8 from 0 to all groups): (cuts, H, W, C) for two pictures, (N, cuts, H, W, C) for two batches.
        `noise` is that of `encode`, shared by a and b.

        `classes` are those of a, and of all pictures with latents of a; `classes_b` are those of b if they
        differ.
        """
        (first, second), single = read_pairs(a, b, self.picture_shape, self._dtype)
        default = exploration.mixing_cuts(len(self.plan.groups), N_CUTS)
        chosen = default if cuts is None else exploration.read_cuts(self.plan, cuts, "cuts")
        call = {"temperature": 1.0, "seed": seed, "noise": noise, "batch_size": batch_size}
        coarse, decode = self._walk("mix", first, options, classes, **call)
        fine, _ = self._walk("mix", second, options, _other(classes_b, classes), **call)
        made = exploration.mixtures(self.plan, coarse, fine, chosen, decode)
        return made[0] if single else made

    def _walk(
        self,
        call: str,
        pictures: Array,
        options: Mapping[str, Any],
        classes: Any,
        *,
        temperature: Any,
        noise: Any,
        **how: Any,
    ) -> tuple[dict[str, Array], Decode]:
        """What `encode` gives of pictures, with the prior's statistics and their classes, and a function that
        decodes latents with the same noise in every call."""
        arguments = self._reading({"output": "mean", **options}, call)
        n, output = len(pictures), {"output": arguments["output"]}
        arguments |= {"temperatures": read_temperatures(self.plan, temperature)}
        given = None if noise is None else checked_noise(noise, self._noise_specs("encode", n, **output))

        def only(method: str, **static: Any) -> dict[str, Array] | None:
            specs = self._noise_specs(method, n, **static)
            return None if given is None else {spec.name: given[spec.name] for spec in specs}

        def decode(latents: dict[str, Array], masks: list[Array]) -> Array:
            noise = only("decode", **output)
            return self._run("decode", latents, noise=noise, masks=masks, **how, **arguments)["image"]

        rows = self._rows(pictures, classes, call)
        encoded = self._run("encode", rows, noise=only("encode"), with_prior=True, **how)
        exploration.check_finite(encoded)
        return encoded | known_classes(rows), decode


def _other(classes_b: Any, classes: Any) -> Any:
    """Classes of the second pictures of pairs."""
    return classes if classes_b is None else classes_b
