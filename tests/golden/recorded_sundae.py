"""Recorded cases of sundae-vqgan and of the text8 SUNDAE, under our names."""

from types import SimpleNamespace

import numpy as np
from safetensors.numpy import load_file

from dioscuri.families.sundae.plan import make_plan, square_side
from dioscuri.importers.published import canonical_weights
from dioscuri.importers.sundae import hourglass_options, text_options
from tests.support.denoisers import TWINS

HOURGLASS, SAMPLING, INPAINT, TRAIN, TEXT = KINDS = [
    ("sundae", runner)
    for runner in ("hourglass", "sundae_sampling", "sundae_inpaint", "sundae_train", "sundae_text8")
]


def options_of(case):
    """`[model]` of a case, and what it says of `[data]`."""
    constructor = case.get("hourglass_constructor", case["constructor"])
    if case["runner"] == "sundae_text8":
        data = constructor["data"]
        sizes = {"codebook_size": data["vocabulary_size"], "sequence_length": data["sequence_length"]}
        return text_options(constructor["model"]), {"grid": 0, **sizes}
    sizes = {"grid": square_side(constructor["max_seq_len"]), "codebook_size": constructor["num_tokens"]}
    return hourglass_options(constructor), {**sizes, "sequence_length": 0}


def opened(name, folder, case):
    """Twin with the recorded weights, which the importer of published ones reads, plan, recorded arrays."""
    inputs, outputs = (dict(np.load(folder / f"{part}.npz")) for part in ("inputs", "outputs"))
    model, data = options_of(case)
    plan = make_plan(model, data["grid"], data["codebook_size"], data["sequence_length"])
    hparams = SimpleNamespace(run=SimpleNamespace(family="sundae"), model=model, data=SimpleNamespace(**data))
    weights = canonical_weights(load_file(folder / case["weights"]["file"]), hparams, folder)
    run = SimpleNamespace(case=case, inputs=inputs, outputs=outputs, plan=plan, weights=weights)
    run.twin = TWINS[name](plan, weights)
    return run


def condition_of(run, rows=slice(None)):
    """The classes, where there are any."""
    return {"label": run.inputs["c"][rows]} if "c" in run.inputs else {}
