"""Sampling of bytedance/1d-tokenizer's generators: options of calls of their `generate` as ours."""

from collections.abc import Mapping
from typing import Any

from dioscuri.errors import UserError

OPEN_MUSE = dict.fromkeys(("legacy_temperature", "legacy_mask_count", "legacy_known_confidence"), False)
"""What the sampler of open-muse does otherwise."""


def titok_sampling(
    *,
    guidance_scale: float = 3.0,
    guidance_decay: str = "constant",
    guidance_scale_pow: float = 3.0,
    randomize_temperature: float = 4.5,
    softmax_temperature_annealing: bool = False,
    num_sample_steps: int = 8,
) -> dict[str, Any]:
    """Sampling options of a call of `generate` of ImageBert or UViTBert, whose power-cosine guidance counts
    from the logits without condition, and whose linear guidance lags by a step."""
    schedules: dict[str, dict[str, Any]] = {
        "constant": {"guidance_scale": guidance_scale},
        "linear": {"guidance_scale": guidance_scale, "guidance_schedule": "linear"},
        "power-cosine": {
            "guidance_scale": guidance_scale - 1,
            "guidance_schedule": "power_cosine",
            "guidance_power": guidance_scale_pow,
        },
    }
    lags = {} if guidance_decay == "constant" else {"guidance_time": "before"}
    return {
        **chosen("guidance_decay", guidance_decay, schedules),
        **lags,
        **_steps(num_sample_steps, randomize_temperature, annealing=softmax_temperature_annealing),
    }


def maskgen_sampling(
    *,
    guidance_scale: float = 12.0,
    randomize_temperature: float = 1.5,
    softmax_temperature_annealing: bool = True,
    num_sample_steps: int = 16,
    guidance_decay: str = "cosine",
    guidance_decay_scale_pow: float = 1.0,
    prob_sorting: bool = True,
    mask_schedule_strategy: str = "arccos",
) -> dict[str, Any]:
    """Sampling options of a call of `generate` of MaskGen_VQ, whose guidance begins at 1."""
    power = {"guidance_power": guidance_decay_scale_pow}
    schedules: dict[str, dict[str, Any]] = {
        "none": {},
        "linear": {"guidance_schedule": "linear"},
        "cosine": {"guidance_schedule": "power_cosine", **power},
        "flippedcosine": {"guidance_schedule": "flipped_cosine", **power},
    }
    begins = {} if guidance_decay == "none" else {"guidance_start": 1.0, "guidance_time": "after"}
    return {
        "guidance_scale": guidance_scale,
        **chosen("guidance_decay", guidance_decay, schedules),
        **begins,
        **_steps(num_sample_steps, randomize_temperature, annealing=softmax_temperature_annealing),
        "sampling_schedule": mask_schedule_strategy,
        "prob_sorting": prob_sorting,
        "legacy_softmax_temperature": not softmax_temperature_annealing,
    }


def _steps(steps: int, temperature: float, *, annealing: bool) -> dict[str, Any]:
    return {
        **OPEN_MUSE,
        "sampler": "logits",
        "steps": steps,
        "temperature": temperature,
        "sampling_schedule": "arccos",
        "softmax_temperature": (1.3, 0.5) if annealing else (1.0, 1.0),
    }


def chosen(name: str, value: str, entries: Mapping[str, Any]) -> Any:
    """The entry of a configuration's value; a `UserError` lists the known values."""
    if value not in entries:
        raise UserError(f"the configuration's {name} '{value}' is not supported: {', '.join(entries)}")
    return entries[value]
