"""Models with groups of latents in the Python interface."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from dioscuri import schedules
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.face.options import with_options
from dioscuri.families.latent_models.bounds import importance_bound
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.inputs import check_names, read_count, read_pictures, to_array

_READING = ("output", "output_temperature")
"""Options for reading the output layer."""


@dataclass(frozen=True)
class Bound:
    """Terms of the evidence lower bound of N pictures, all in nats per picture.

    `elbo` (N,) = -(reconstruction + kl.sum(1)) is at most log p(x); `importance` (N,), the bound of several
    samples (Burda et al. 2016), lies between the two. `reconstruction` (N,) is -log p(x | z), `kl`
    (N, levels) the divergence of every top-down level, coarsest first. `dims` is the number of values in a
    picture.
    """

    elbo: Array
    reconstruction: Array
    kl: Array
    importance: Array
    dims: int

    @property
    def bits_per_dim(self) -> float:
        """Mean of -elbo in bits per dimension."""
        return float(-self.elbo.mean()) / (log(2) * self.dims)


class LatentModel(Model):
    """A VAE with a hierarchy of latents.

    Calls take `temperature` (one number, one per level or one per latent group) and the options for reading
    the output layer: `output`, 'sample' or 'mean', and `output_temperature`.
    """

    does: ClassVar[tuple[str, ...]] = ("encode", "decode", "generate", "reconstruct", "bound", "interpolate")

    @property
    def plan(self) -> LatentPlan:
        """Latent groups and output layer."""
        raise NotImplementedError

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(H, W, C) of pictures without padding; (L, C) of sounds and (T, H, W, C) of clips."""
        return self.plan.image_shape

    def encode(
        self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE
    ) -> dict[str, Array]:
        """The posterior of every latent group l: `mean.<l>`, `std.<l>`, and a sample, `z.<l>`, each
        (N, h, w, Z)."""
        rows = {"image": self._padded(self._pictures(pictures))}
        return self._run("encode", rows, noise=noise, seed=seed, batch_size=batch_size)

    def decode(
        self,
        codes: Any,
        *,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures from latents `z.<l>` (N, h, w, Z); missing groups are sampled from the prior."""
        rows, masks = self._latents(codes)
        arguments = self._reading(options, "decode") | {"temperatures": self._temperatures(temperature)}
        return self._run(
            "decode", rows, noise=noise, seed=seed, batch_size=batch_size, masks=masks, **arguments
        )["image"]

    def generate(
        self,
        n: int | None = None,
        *,
        temperature: Any = 1.0,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """n new pictures (default 16) from the prior, uint8 (n, H, W, C)."""
        rows = {"index": np.arange(16 if n is None else read_count(n, "n"))}
        arguments = self._reading(options, "generate") | {"temperatures": self._temperatures(temperature)}
        return self._run("generate", rows, noise=noise, seed=seed, batch_size=batch_size, **arguments)[
            "image"
        ]

    def reconstruct(
        self,
        pictures: Any,
        *,
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """Pictures encoded by the posterior and decoded, uint8 (N, H, W, C)."""
        rows = {"image": self._padded(self._pictures(pictures))}
        arguments = self._reading(options, "reconstruct")
        return self._run("reconstruct", rows, noise=noise, seed=seed, batch_size=batch_size, **arguments)[
            "image"
        ]

    def bound(self, pictures: Any, *, samples: int = 1, seed: int = 0, batch_size: int = BATCH_SIZE) -> Bound:
        """Terms of the evidence lower bound, averaged over `samples` samples of the posterior, and the
        importance-weighted bound of these samples."""
        rows = {"image": self._padded(self._pictures(pictures))}
        reconstruction, kl, log_weights = [], [], []
        for k in range(read_count(samples, "samples")):
            terms = self._run("evaluate", rows, noise=None, seed=seed, batch_size=batch_size, repeat=k)
            reconstruction.append(terms["reconstruction"].astype(np.float64))
            kl.append(terms["kl"].astype(np.float64))
            log_weights.append(-terms["reconstruction"] - terms["log_ratio"].sum(1))
        mean_reconstruction, groups = np.mean(reconstruction, 0), np.mean(kl, 0)
        return Bound(
            elbo=-(mean_reconstruction + groups.sum(1)),
            reconstruction=mean_reconstruction,
            kl=self._by_level(groups),
            importance=-importance_bound(log_weights),
            dims=self.plan.image_dims,
        )

    def interpolate(
        self,
        a: Any,
        b: Any,
        n: int = 8,
        *,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        **options: Any,
    ) -> Array:
        """n pictures decoded from linear interpolations between the latents of a and b, including both ends.

        Two pictures (H, W, C) give (n, H, W, C), two batches (N, H, W, C) give (N, n, H, W, C).
        """
        (first, single), (last, _) = self._one_or_more(a, "a"), self._one_or_more(b, "b")
        if len(first) != len(last):
            raise UserError(f"a holds {len(first)} pictures and b {len(last)}: give the same number")
        steps, arguments = read_count(n, "n", low=2), {"output": "mean", **options}
        z = {
            name: (array, other)
            for (name, array), other in zip(
                self.encode(first, seed=seed, batch_size=batch_size).items(),
                self.encode(last, seed=seed, batch_size=batch_size).values(),
                strict=True,
            )
            if name.startswith("z.")
        }
        film = [
            self.decode(
                {name: (1 - t) * array + t * other for name, (array, other) in z.items()},
                seed=seed,
                batch_size=batch_size,
                **arguments,
            )
            for t in np.linspace(0, 1, steps, dtype=np.float32)
        ]
        return np.stack(film, 1)[0] if single else np.stack(film, 1)

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image",)

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        del name
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

    def _one_or_more(self, given: Any, what: str) -> tuple[Array, bool]:
        """Pictures (N, H, W, C), and whether the input was a single one without the axis N."""
        single = tuple(getattr(given, "shape", ())) == self.picture_shape
        if single:
            given = to_array(given, f"{what} must be pictures")[None]
        return self._pictures(given, what), single or isinstance(given, Image.Image)

    def _reading(self, options: Mapping[str, Any], call: str) -> dict[str, Any]:
        """Options for reading the output layer: the run's, updated with the call's."""
        chosen = with_options(self.hparams.synthesis, options, _READING, call)
        return {"output": chosen.output, "output_temperature": chosen.output_temperature}

    def _temperatures(self, given: Any) -> Array:
        """One temperature per latent group."""
        values = given.tolist() if isinstance(given, np.ndarray) else given
        numbers = values if isinstance(values, list | tuple) else [values]
        plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in numbers)
        if not plain or not np.isfinite(numbers).all() or min(numbers, default=-1) < 0:
            raise UserError(
                f"temperature must be a number of at least 0, or one per level or group, not {given!r}"
            )
        setting = tuple(numbers) if isinstance(values, list | tuple) else float(numbers[0])
        try:
            return np.asarray(level_temperatures(self.plan, setting), np.float32)
        except UserError as error:
            raise UserError(str(error).replace("[synthesis] temperature_settings", "temperature")) from error

    def _latents(self, codes: Any) -> tuple[dict[str, Array], Sequence[Array]]:
        """`z.<l>` of all groups, zero if not given, and masks of those given."""
        names = [f"z.{group}" for group in range(len(self.plan.groups))]
        if not isinstance(codes, Mapping):
            raise UserError(
                f"latents must be arrays by name, {names[0]} ... {names[-1]}, as encode returns them"
            )
        given = {name: value for name, value in codes.items() if not str(name).startswith(("mean.", "std."))}
        check_names(given, names, "latents:")
        if not given:
            raise UserError(f"latents must hold at least one of {names[0]} ... {names[-1]}")
        arrays = {
            name: to_array(value, f"latents '{name}' must be an array") for name, value in given.items()
        }
        n, rows, masks = len(next(iter(arrays.values()))), {}, []
        for group, name in enumerate(names):
            shape = self.plan.latent_shape(group, n)
            if name in arrays and arrays[name].shape != shape:
                form = f"(N, {', '.join(map(str, shape[1:]))}), all of one N"
                raise UserError(f"latents '{name}' must be {form}; got {arrays[name].shape}")
            if name in arrays and not np.isfinite(arrays[name]).all():
                raise UserError(f"latents '{name}' hold values that are not finite")
            rows[name] = arrays[name].astype(np.float32) if name in arrays else np.zeros(shape, np.float32)
            masks.append(np.full(shape[-1], name in arrays, np.float32))
        return rows, masks

    def _by_level(self, kl: Array) -> Array:
        """(N, groups) -> (N, levels)."""
        levels = np.array([block.level for block in self.plan.groups])
        return np.stack([kl[:, levels == level].sum(1) for level in range(self.plan.n_levels)], 1)
