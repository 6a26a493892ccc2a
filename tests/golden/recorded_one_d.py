"""Recorded cases of the generators of 1-D tokens, under our names."""

from functools import cache

import numpy as np

from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.families.token_models.masking_options import Masking
from dioscuri.importers.titok_generators import (
    from_titok_generator,
    generator_options,
    to_original_names,
)
from dioscuri.importers.titok_sampling import maskgen_sampling, titok_sampling
from tests.golden.recorded import Case
from tests.golden.recorded_tokens import Run

KINDS = IMAGEBERT, UVITBERT, MASKGEN, TABLES, TRAINER = [
    ("one_d_tokens", runner) for runner in ("imagebert", "uvitbert", "maskgen_vq", "tables", "one_d_trainer")
]


def opened(kind, case):
    """The case with a twin, compiled once, and true tokens `ids` (B, L)."""
    return _opened(kind, case.folder)


@cache
def _opened(kind, folder):
    case = Case(folder)
    options, codes, length = generator_options(case.about["config"])
    weights = from_titok_generator(case.weights, options)
    run = Run(case, make_plan(options, 0, codes, sequence_length=length), weights, kind)
    run.ids = case.inputs["tokens"]
    return run


def sampling_of(run, call):
    """Options of a recorded call of `generate`, by name."""
    if run.plan.options.architecture != "maskgen":
        return titok_sampling(**call)
    return maskgen_sampling(**call, mask_schedule_strategy=schedule_of(run))


def schedule_of(run):
    """The schedule of the masks in training."""
    return run.about["config"]["model"].get("maskgen", {}).get("mask_schedule_strategy", "arccos")


def masking_of(run):
    """Options of masking and its loss."""
    loss = run.case.settings["loss"]
    return Masking(
        mask_schedule=schedule_of(run),
        label_smoothing=loss["label_smoothing"],
        loss_weight_unmasked_token=loss["loss_weight_unmasked_token"],
    )


def condition_of(run, score=None):
    """The recorded condition; of MaskGen with one aesthetic score for all, or the recorded ones."""
    inputs = run.inputs
    if run.plan.options.architecture != "maskgen":
        return {"label": inputs["condition"]}
    micro = np.zeros((len(inputs["tokens"]), 5), np.float32)
    micro[:, 4] = inputs["aesthetic_score"] if score is None else score
    return {"text": inputs["condition"], "pooled": inputs["condition_pooled"][:, 0], "micro": micro}


def null_of(run):
    """The null condition of one row."""
    if run.plan.options.architecture != "maskgen":
        return {"label": np.array([run.plan.null_label])}
    inputs = run.inputs
    return {"text": inputs["none_condition"], "pooled": inputs["none_condition_pooled"][:, 0]}


def without(run, condition):
    """The condition with the null condition in every row."""
    rows = {name: np.broadcast_to(value, condition[name].shape) for name, value in null_of(run).items()}
    return {**condition, **rows}


def check_gradients(run, gradients):
    """Every recorded gradient."""
    original = to_original_names(gradients, run.plan.options)
    for name in run.case.of_prefix("grad:"):
        run.close(original[name], f"grad:{name}", tolerance="gradients")
