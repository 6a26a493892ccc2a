"""The sampling schedule of tokens: numbers and noise of every step, independent of the network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.remasking import remasking, schedule_times, staying
from dioscuri.families.maskgit.transformers import plan_of
from dioscuri.families.token_models.masking_options import Sampling, without_numbers
from dioscuri.plans.noise import NoiseSpec
from dioscuri.schedules import mask_ratio


class Steps(NamedTuple):
    """Arrays with one row for each of T steps.

    `masked` (T, L + 1) int32: number of masked tokens after the step (with the scores sampler: before it), by
    the number masked at the start. The others are (T,), float32 except for `top_p`: `ratio`, the share of
    masked tokens after the step, of those masked at the start; `temperature` of the confidences' noise (with
    the scores sampler: of the logits); `logit_scale`, a factor; `guidance`, the factor w in
    unconditional + w (conditional - unconditional); `critic_noise`; `remask` and `stay`, probabilities that a
    sampled token is masked again and that a masked one stays masked; and the option `top_p`.
    """

    masked: Any
    ratio: Any
    temperature: Any
    logit_scale: Any
    guidance: Any
    critic_noise: Any
    remask: Any
    stay: Any
    top_p: Any


NUMBERS = (
    *("temperature", "logit_scale", "logit_scale_power", "logit_scale_warmup", "softmax_temperature"),
    *("guidance_schedule", "guidance_power", "guidance_start", "guidance_time", "critic_noise_scale"),
    *("remask_rate", "legacy_temperature", "legacy_guidance", "legacy_softmax_temperature"),
)
"""Options that only `make_numbers` reads; of `guidance_scale`, others read whether it is 0."""


def make_steps(options: Sampling, n_tokens: int, numbers: Sequence[Any] | None = None) -> Steps:
    """The schedule for pictures of `n_tokens`; `numbers` replaces what `make_numbers` gives."""
    if options.mask_counts:
        ratio = np.asarray(options.mask_counts, np.float32) / n_tokens
    else:
        times = schedule_times(options, n_tokens).astype(np.float32)
        ratio = mask_ratio(options.sampling_schedule, times, float(n_tokens))
    given = make_numbers(options, n_tokens) if numbers is None else numbers
    return Steps(_masked(options, n_tokens), ratio.astype(np.float32), *given)


def make_numbers(options: Sampling, n_tokens: int) -> tuple[np.ndarray, ...]:
    """The arrays of `Steps` from `temperature` on."""
    rows = [row(options) for row in (_temperature, _logit_scale, _guidance, _critic_noise)]
    rows += [remasking(options, n_tokens), staying(options, n_tokens)]
    return (*[row.astype(np.float32) for row in rows], np.full(options.steps, options.top_p))


def sampling_arguments(hparams: HParams, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """See `dioscuri.contract.Family`: the numbers of the steps are data."""
    if method not in ("generate", "inpaint"):
        return given
    options = given.get("sampling") or hparams.synthesis
    is_guided = float(options.guidance_scale > 0)
    fixed = replace(without_numbers(options, NUMBERS), guidance_scale=is_guided)
    numbers = make_numbers(options, plan_of(hparams).n_tokens)
    return {**given, "sampling": fixed, "schedule": numbers}


def positions_to_predict(options: Sampling, n_tokens: int, *, every_step: bool = False) -> tuple[int, ...]:
    """For each of T steps, the maximum number of positions sampled in a picture.

    This covers all masked positions, or with the Halton sampler all written ones. Counts are eighths of
    `n_tokens`, so that few programs are compiled. All positions are needed if known tokens are scored by the
    network's predictions, and with the Halton sampler if `every_step` is shown.
    """
    whole = (n_tokens,) * options.steps
    match options.sampler:
        case "halton" if not every_step:
            # The first step taken also writes the tokens of the skipped ones.
            left = make_steps(options, n_tokens).masked.astype(int)
            before = np.concatenate([np.arange(n_tokens + 1)[None], left[:-1]])
            before[options.start_step] = np.arange(n_tokens + 1)
            most = (before - left).max(1)
        case "confidence" | "logits" if options.remask != "confidence" and not options.legacy_exhausted:
            most = np.roll(make_steps(options, n_tokens).masked.max(1), 1)
            most[: options.start_step + 1] = n_tokens
        case "scores" if options.remask != "confidence" and not options.legacy_scores:
            most = make_steps(options, n_tokens).masked.max(1)
            most[: options.start_step + 1] = n_tokens
        case _:
            return whole
    eighth = -(-n_tokens // 8)
    return tuple(min(n_tokens, eighth * -(-max(1, int(n)) // eighth)) for n in most)


def step_noise_specs(
    options: Sampling, batch: int, n_tokens: int, codebook_size: int, critic: bool = False
) -> tuple[NoiseSpec, ...]:
    """Noise of one step: Gumbel `tokens` (B, L, K), or fewer positions if fewer are sampled, and, if the
    sampler uses them, Gumbel `confidence`, uniform `critic` and uniform `remask`, each (B, L)."""
    place = (batch, n_tokens)
    specs = [NoiseSpec("tokens", "gumbel", (*place, codebook_size + options.legacy_mask_token))]
    if options.sampler in ("confidence", "halton_confidence") or _sorts_by_logits(options):
        specs.append(NoiseSpec("confidence", "gumbel", place))
    if options.sampler == "scores" and critic:
        specs.append(NoiseSpec("critic", "uniform", place))
    if options.sampler == "ancestral" or options.remasks_at_random:
        specs.append(NoiseSpec("remask", "uniform", place))
    return tuple(specs)


def _sorts_by_logits(options: Sampling) -> bool:
    return options.sampler == "logits" and options.prob_sorting


def rolls(options: Sampling) -> bool:
    """Whether every picture starts at a random position of the Halton order."""
    return options.sampler == "halton" and options.randomize


def recorded_noise_specs(
    options: Sampling, batch: int, n_tokens: int, codebook_size: int, critic: bool = False
) -> tuple[NoiseSpec, ...]:
    """Noise of all steps, (B, T, ...), and uniform `offsets` (B,) if the Halton order is rolled."""
    steps = step_noise_specs(options, batch, n_tokens, codebook_size, critic)
    whole = [NoiseSpec(spec.name, spec.kind, (batch, options.steps, *spec.shape[1:])) for spec in steps]
    return (*whole, *([NoiseSpec("offsets", "uniform", (batch,))] if rolls(options) else []))


def _masked(options: Sampling, n_tokens: int) -> np.ndarray:
    """Computed in float32 like the originals, with the Halton samplers and TiTok's in float64."""
    numbers, columns = np.arange(n_tokens + 1), []
    if options.mask_counts:
        counts = np.asarray(options.mask_counts)
        if options.sampler == "scores":
            counts = np.concatenate([[n_tokens], counts[:-1]])
        return np.asarray(np.minimum(counts[:, None], numbers).astype(np.int32))
    kind = np.float64 if options.sampler == "logits" else np.float32
    for n in numbers:
        counted = n_tokens if options.legacy_mask_count else n
        if options.sampler in ("halton", "halton_confidence"):
            columns.append(_left_by_halton(options, int(counted)))
            continue
        is_scores = options.sampler == "scores"
        times = _scores_times(options) if is_scores else schedule_times(options, n_tokens)
        ratio = mask_ratio(options.sampling_schedule, times.astype(kind), float(max(counted, 2)))
        left = np.floor(kind(counted) * ratio).astype(np.int64)
        columns.append(np.maximum(left, int(is_scores)))
    table = np.stack(columns, 1)
    return (table if options.legacy_mask_count else np.clip(table, 0, numbers)).astype(np.int32)


def _left_by_halton(options: Sampling, n: int) -> np.ndarray:
    """Masked tokens after each step, at least one fewer than before it."""
    times = _scores_times(options, 1.0) if options.sampler == "halton_confidence" else _shares(options)
    ratio = mask_ratio(options.sampling_schedule, times, float(max(n, 2)))
    known = np.floor(n * (1 - ratio)).astype(np.int64)
    return np.asarray(np.maximum(n - np.maximum(known, np.arange(1, options.steps + 1)), 0))


def _shares(options: Sampling) -> np.ndarray:
    """Fraction of the steps done after each step."""
    return np.arange(1, options.steps + 1) / options.steps


def _scores_times(options: Sampling, single: float = 0.0) -> np.ndarray:
    """Times from 0 to 1; `single` if there is only one step."""
    return np.linspace(0, 1, options.steps) if options.steps > 1 else np.array([single])


def _temperature(options: Sampling) -> np.ndarray:
    if isinstance(options.temperature, tuple):
        first, *_, last = options.temperature
        is_pair = len(options.temperature) == 2
        return np.linspace(first, last, options.steps) if is_pair else np.asarray(options.temperature)
    is_halton = options.sampler == "halton_confidence"
    left = 1 - (_scores_times(options, 1.0) if is_halton else _shares(options))
    return options.temperature * (np.cumprod(left) if options.legacy_temperature else left)


def _logit_scale(options: Sampling) -> np.ndarray:
    scale: np.ndarray = np.linspace(*options.logit_scale, options.steps) ** options.logit_scale_power
    scale[: options.logit_scale_warmup] *= 0.5
    first, last = options.softmax_temperature
    scale = scale / (first + (last - first) * _shares(options))
    if not options.legacy_softmax_temperature:
        return scale
    with np.errstate(divide="ignore"):
        return np.asarray(scale / _temperature(options))


def _guidance(options: Sampling) -> np.ndarray:
    scale, schedule, times = options.guidance_scale, options.guidance_schedule, _guidance_times(options)
    if isinstance(schedule, tuple):
        return 1 + scale * np.asarray(schedule)
    match schedule:
        case "linear":
            rise = times
        case "cosine":
            rise = np.cos(np.pi / 2 * (1 - times))
        case "power_cosine":
            rise = (1 - np.cos(np.pi * times**options.guidance_power)) / 2
        case "flipped_cosine":
            rise = np.cos(np.pi * times**options.guidance_power) / 2
        case _:
            return np.full(options.steps, 1 + scale)
    if options.legacy_guidance:
        return np.floor(rise * (1 + scale)) if schedule == "cosine" else (1 + scale) * rise
    return np.asarray(1 + options.guidance_start + (scale - options.guidance_start) * rise)


def _guidance_times(options: Sampling) -> np.ndarray:
    if options.guidance_time == "before":
        return _shares(options) - 1 / options.steps
    if options.guidance_time == "usual" and options.guidance_schedule == "linear":
        return _scores_times(options, 1.0)
    return _shares(options)


def _critic_noise(options: Sampling) -> np.ndarray:
    return options.critic_noise_scale * (1 - _shares(options))
