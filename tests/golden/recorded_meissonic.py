"""Recorded cases of Meissonic, under our names."""

from dataclasses import replace

import numpy as np

from dioscuri.families.maskgit.editing import first_step, share_masked
from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.families.token_models.masking_options import Sampling
from dioscuri.importers.meissonic import SAMPLING, from_meissonic, meissonic_options
from tests.golden.recorded_tokens import Run

KINDS = FORWARD, PIPELINE, TRAINING, TABLES = [
    ("meissonic", f"meissonic_{runner}") for runner in ("transformer", "pipeline", "training", "tables")
]
CONDITIONS = {
    "encoder_hidden_states": "text",
    "pooled_projections": "pooled",
    "cond_embeds": "pooled",
    "micro_conds": "micro",
}
LAST_TEMPERATURE = 0.01
"""Final temperature if a single number is given."""


def opened(kind, case, shape):
    """The case with a twin for grids of a shape (h, w)."""
    config = case.settings.get("config", case.about["config"])
    options, data = meissonic_options(config)
    prefixes = case.settings.get("weights_prefixes", {})
    others = tuple(prefix for prefix in prefixes.values() if prefix)
    weights = {name: array for name, array in case.weights.items() if not name.startswith(others or "?")}
    plan = make_plan(options, shape[0], data["codebook_size"], columns=shape[1])
    assert plan.mask_id == case.settings["mask_token_id"]
    return Run(case, plan, from_meissonic(weights), kind)


def flat(grids):
    """(..., h, w) -> (..., h w)."""
    return grids.reshape(*grids.shape[:-2], -1)


def maps(rows, plan):
    """Rows (B, h w, C) or grids (B, h, w, C) -> maps (B, C, h, w)."""
    return rows.reshape(len(rows), plan.grid, -1, rows.shape[-1]).transpose(0, 3, 1, 2)


def sampling_of(run):
    """Options of a recorded call of a pipeline."""
    steps, temperature = run["num_inference_steps"], run["temperature"]
    pair = tuple(temperature) if isinstance(temperature, list) else (temperature, LAST_TEMPERATURE)
    options = Sampling(
        **{
            **SAMPLING,
            "steps": steps,
            "temperature": pair,
            "guidance_scale": max(run["guidance_scale"] - 1, 0.0),
            "sampling_schedule": run["masking_schedule"],
            "legacy_mask_count": True,
            "legacy_mask_share": run["kind"] == "inpaint",
        }
    )
    if run["kind"] != "img2img":
        return options
    return replace(options, start_step=first_step(options, run["strength"], {}, "edit"))


def share_at_first(options, plan):
    """The probability that a token is masked before the first step of image to image: nothing is masked at
    strength 1, an error of the original."""
    return share_masked(options, plan) if options.start_step else 0.0


def conditions_of(case, run):
    """The condition and, with guidance, the null condition of a recorded call."""
    names = run["inputs"]
    text = case.inputs[names["encoder_hidden_states"]]
    numbers = [run["width"], run["height"], *run["crop_coord"], run["aesthetic_score"]]
    condition = {
        "text": text,
        "pooled": case.inputs[names["prompt_embeds"]],
        "micro": np.tile(np.array(numbers, np.float32), (len(text), 1)),
    }
    if run["guidance_scale"] <= 1:
        return condition, None
    negative = {"text": "negative_encoder_hidden_states", "pooled": "negative_prompt_embeds"}
    return condition, {ours: case.inputs[names[theirs]] for ours, theirs in negative.items()}
