"""Metrics and noise of SUNDAE's training, and parameters and noise of every step of its samplers."""

from typing import Any, NamedTuple

import numpy as np

from dioscuri.families.sundae.denoising_options import Resampling, Unrolling
from dioscuri.families.sundae.plan import DenoiserPlan
from dioscuri.plans.noise import NoiseSpec


def metric_sizes(options: Unrolling) -> dict[str, int]:
    """Names of the metrics, 0 for a number, else the length of a vector: `unrolled` has the cross-entropy of
    every pass."""
    return {"loss": 0, "accuracy": 0, "unrolled": options.unroll_steps}


def training_noise(options: Unrolling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Uniforms of a step: the `share` (B, 1) of corrupted tokens, which ones (`corrupt`) and by what
    (`replacement`), and draws of all passes but the last, `unroll.<k>`, these three (B, L)."""
    place = (batch, plan.n_tokens)
    shapes = {"share": (batch, 1), "corrupt": place, "replacement": place}
    unrolls = {f"unroll.{k}": place for k in range(options.unroll_steps - 1)}
    return tuple(NoiseSpec(name, "uniform", shape) for name, shape in {**shapes, **unrolls}.items())


class SamplingSchedule(NamedTuple):
    """`temperature` and `proportion`, both (T,) float32."""

    temperature: Any
    proportion: Any


def make_sampling_schedule(options: Resampling) -> SamplingSchedule:
    """Numbers of all steps."""
    temperature = _line(options, options.temperature, options.end_temperature)
    proportion = _line(options, options.sample_proportion, options.end_sample_proportion)
    return SamplingSchedule(temperature, proportion)


def step_noise_specs(options: Resampling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Noise of one step: uniforms (B, L), `tokens` to draw and `update` for which token is drawn."""
    if options.sampler == "argmax_unrolled":
        return ()
    place = (batch, plan.n_tokens)
    return (NoiseSpec("tokens", "uniform", place), NoiseSpec("update", "uniform", place))


def recorded_noise_specs(options: Resampling, plan: DenoiserPlan, batch: int) -> tuple[NoiseSpec, ...]:
    """Noise of all steps, (B, T, ...), and the uniform `start` (B, L), from which the first tokens follow."""
    whole = [
        NoiseSpec(spec.name, spec.kind, (batch, options.steps, *spec.shape[1:]))
        for spec in step_noise_specs(options, plan, batch)
    ]
    return (*whole, NoiseSpec("start", "uniform", (batch, plan.n_tokens)))


def _line(options: Resampling, first: float, last: float | None) -> np.ndarray:
    values: np.ndarray = np.linspace(first, first if last is None else last, options.steps)
    return values.astype(np.float32)
