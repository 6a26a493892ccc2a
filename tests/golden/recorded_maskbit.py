"""Recorded cases of MaskBit's generators, under our names."""

from functools import cache

import numpy as np

from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.families.token_models.masking_options import Masking
from dioscuri.importers.maskbit_generators import (
    from_maskbit_generator,
    maskbit_options,
    to_maskbit_generator,
)
from tests.golden.recorded import Case
from tests.golden.recorded_tokens import Run

KINDS = LFQ_BERT, BERT, TABLES = [
    ("maskbit", runner) for runner in ("maskbit_lfq_bert", "maskbit_bert", "maskbit_tables")
]


def opened(kind, case):
    """The case with a twin, compiled once."""
    return _opened(kind, case.folder)


@cache
def _opened(kind, folder):
    case = Case(folder)
    config = case.about["config"]
    options = maskbit_options(config, "bert" if case.kind == BERT else "lfqbert")
    plan = make_plan(options, config["img_size"] // config["input_stride"], config["codebook_size"])
    assert plan.mask_id == case.about["mask_token"]
    return Run(case, plan, from_maskbit_generator(case.weights), kind)


def flat(run, name):
    """A recorded array (..., n, m) with its groups in one axis (..., n m)."""
    array = run.outputs[name] if name in run.outputs else run.inputs[name]
    return array.reshape(*array.shape[: array.ndim - 2], -1)


def labels_of(run, dropped):
    """The recorded classes, and no class where `dropped` (B,)."""
    return {"label": np.where(dropped, run.plan.null_label, run.inputs["class_labels"])}


def masking_of(run):
    """Options of masking and its loss."""
    return Masking(
        mask_schedule=run.case.settings["mask_mode"],
        masking="bernoulli",
        normalisation="all",
        label_smoothing=run.case.settings["loss"]["label_smoothing"],
    )


def check_gradients(run, gradients):
    """Every recorded gradient, and no others."""
    original = to_maskbit_generator(gradients)
    expected = run.case.of_prefix("grad:")
    assert expected.keys() <= original.keys()
    for name in expected:
        run.close(original[name], f"grad:{name}", tolerance="gradients")
