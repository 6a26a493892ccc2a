"""Recorded cases of sundae-vqgan and of the text8 SUNDAE, under our names."""

from math import isqrt
from types import SimpleNamespace

from dioscuri.families.sundae.plan import make_plan
from dioscuri.importers.published import canonical_weights
from dioscuri.importers.sundae import hourglass_options, text_options
from tests.golden.recorded_tokens import Run
from tests.support.denoisers import TWINS

HOURGLASS, SAMPLING, INPAINT, TRAIN, TEXT = [
    ("sundae", runner)
    for runner in ("hourglass", "sundae_sampling", "sundae_inpaint", "sundae_train", "sundae_text8")
]


def options_of(about):
    """`[model]` of a case, and its options of `[data]`."""
    constructor = about.get("hourglass_constructor", about["constructor"])
    if about["runner"] == TEXT[1]:
        data = constructor["data"]
        sizes = {"codebook_size": data["vocabulary_size"], "sequence_length": data["sequence_length"]}
        return text_options(constructor["model"]), {"grid": 0, **sizes}
    sizes = {"grid": isqrt(constructor["max_seq_len"]), "codebook_size": constructor["num_tokens"]}
    return hourglass_options(constructor), {**sizes, "sequence_length": 0}


def opened(name, case):
    """The case with a twin, whose weights come through the importer of published ones."""
    model, data = options_of(case.about)
    plan = make_plan(model, data["grid"], data["codebook_size"], data["sequence_length"])
    hparams = SimpleNamespace(run=SimpleNamespace(family="sundae"), model=model, data=SimpleNamespace(**data))
    return Run(case, plan, canonical_weights(case.weights, hparams, case.folder), TWINS[name])


def condition_of(run, rows=slice(None)):
    """The classes, if any."""
    return {"label": run.inputs["c"][rows]} if "c" in run.inputs else {}
