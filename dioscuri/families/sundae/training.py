"""Metrics and noise of SUNDAE's training, and the schedule and noise of its samplers."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dioscuri.families.sundae.denoising_options import Resampling, Unrolling
from dioscuri.families.sundae.options import HParams
from dioscuri.families.sundae.plan import DenoiserPlan
from dioscuri.families.token_models.masking_options import without_numbers
from dioscuri.plans.noise import NoiseSpec


def metric_sizes(options: Unrolling) -> dict[str, int]:
    """Metrics by name: 0 for a number, else the length of a vector. `unrolled` has the cross-entropy of every
    pass."""
    return {"loss": 0, "accuracy": 0, "unrolled": options.unroll_steps}


def training_noise(options: Unrolling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Uniform noise of a step: `share` (B, 1), the fraction of corrupted tokens; and, each (B, L), `corrupt`,
    which tokens those are, `replacement`, their replacements, and `unroll.<k>`, the samples of all passes but
    the last."""
    place = (batch, plan.n_tokens)
    shapes = {"share": (batch, 1), "corrupt": place, "replacement": place}
    unrolls = {f"unroll.{k}": place for k in range(options.unroll_steps - 1)}
    return tuple(NoiseSpec(name, "uniform", shape) for name, shape in {**shapes, **unrolls}.items())


class SamplingSchedule(NamedTuple):
    """`temperature` and `proportion`, both (T,) float32, and `top_p` (T,)."""

    temperature: Any
    proportion: Any
    top_p: Any


NUMBERS = ("temperature", "end_temperature", "sample_proportion", "end_sample_proportion")
"""Options that only `make_sampling_schedule` reads."""


def make_sampling_schedule(options: Resampling) -> SamplingSchedule:
    """The schedule of all steps."""
    temperature = _line(options, options.temperature, options.end_temperature)
    proportion = _line(options, options.sample_proportion, options.end_sample_proportion)
    return SamplingSchedule(temperature, proportion, np.full(options.steps, options.top_p))


def sampling_arguments(hparams: HParams, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `dioscuri.contract.Family`: the schedule is data."""
    if method not in ("generate", "inpaint"):
        return given
    options = given.get("sampling") or hparams.synthesis
    schedule = make_sampling_schedule(options)
    return {**given, "sampling": without_numbers(options, NUMBERS), "schedule": schedule}


def step_noise_specs(options: Resampling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Noise of one step: uniforms (B, L), `tokens` to sample tokens and `update` to choose which ones."""
    if options.sampler == "argmax_unrolled":
        return ()
    place = (batch, plan.n_tokens)
    return (NoiseSpec("tokens", "uniform", place), NoiseSpec("update", "uniform", place))


def recorded_noise_specs(options: Resampling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Noise of all steps, (B, T, ...), and the uniform `start` (B, L) of the initial tokens."""
    whole = [
        NoiseSpec(spec.name, spec.kind, (batch, options.steps, *spec.shape[1:]))
        for spec in step_noise_specs(options, plan, batch)
    ]
    return (*whole, NoiseSpec("start", "uniform", (batch, plan.n_tokens)))


def _line(options: Resampling, first: float, last: float | None) -> np.ndarray:
    values: np.ndarray = np.linspace(first, first if last is None else last, options.steps)
    return values.astype(np.float32)
