"""Recorded cases of sundae-vqgan and of the text8 SUNDAE, under our names."""

from types import SimpleNamespace

import numpy as np
from safetensors.numpy import load_file

from common.checkpoint.sundae_import import from_sundae, hourglass_options, text_options
from common.plans.denoiser import make_plan, square_side
from tests.denoisers import TWINS

HOURGLASS, SAMPLING, INPAINT, TRAIN, TEXT = KINDS = [
    ("sundae", runner)
    for runner in ("hourglass", "sundae_sampling", "sundae_inpaint", "sundae_train", "sundae_text8")
]


def opened(name, folder, case):
    """Twin with the recorded weights, plan, recorded arrays."""
    inputs, outputs = (dict(np.load(folder / f"{part}.npz")) for part in ("inputs", "outputs"))
    constructor = case.get("hourglass_constructor", case["constructor"])
    if case["runner"] == "sundae_text8":
        data = constructor["data"]
        options = text_options(constructor["model"])
        plan = make_plan(options, 0, data["vocabulary_size"], data["sequence_length"])
    else:
        options = hourglass_options(constructor)
        plan = make_plan(options, square_side(constructor["max_seq_len"]), constructor["num_tokens"])
    weights = from_sundae(load_file(folder / case["weights"]["file"]), plan)
    run = SimpleNamespace(case=case, inputs=inputs, outputs=outputs, plan=plan, weights=weights)
    run.twin = TWINS[name](plan, weights)
    return run


def condition_of(run, rows=slice(None)):
    """The classes, where there are any."""
    return {"label": run.inputs["c"][rows]} if "c" in run.inputs else {}
