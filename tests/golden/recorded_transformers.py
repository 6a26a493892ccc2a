"""Recorded cases of masked token transformers, under our names."""

import numpy as np

from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.importers.google import from_google, google_options
from dioscuri.importers.halton import from_halton, halton_options
from dioscuri.importers.lucidrains import from_lucidrains, lucidrains_options
from dioscuri.importers.open_muse import open_muse_options
from tests.golden.recorded_tokens import Run

KINDS = OPEN_MUSE, UVIT, GOOGLE, HALTON, LUCIDRAINS = [
    ("maskgit", runner)
    for runner in (
        "maskgit_transformer",
        "uvit",
        "maskgit_flax_transformer",
        "halton_maskgit",
        "lucidrains_token_critic",
    )
]


def opened(kind, case):
    """The case with a twin, ids (B, L) and condition."""
    options, codes, weights = imported(case)
    ids, condition = model_inputs(case, options, codes)
    run = Run(case, make_plan(options, int(np.sqrt(ids.shape[1])), codes), weights, kind)
    run.ids, run.condition = ids, condition
    return run


def imported(case):
    """Options, number of codes and weights of a case."""
    config, weights = case.about["config"], case.weights
    if case.kind == GOOGLE:
        codes = case.about["codebook_size"]
        return google_options(config, codes), codes, from_google(weights)
    if case.kind == HALTON:
        return halton_options(config), config["codebook_size"], from_halton(weights)
    if case.kind == LUCIDRAINS:
        network = config["transformer"]
        options = lucidrains_options(network, config["text_embed_dim"], critic="token")
        return options, network["num_tokens"], from_lucidrains(weights, self_cond=network["self_cond"])
    return open_muse_options(config), config["codebook_size"], weights


def model_inputs(case, options, codes):
    """Ids without class token, and the condition."""
    inputs, condition = case.inputs, {}
    if case.kind == HALTON:
        label = np.where(inputs["drop_label"], options.num_classes, inputs["y"])
        (masked,) = case.said(r"logits and loss use (\S+)")
        return case.outputs[masked].reshape(len(label), -1), {"label": label}
    if case.kind == LUCIDRAINS:
        return inputs["x_part"], {"text": inputs["text_embeds"]}
    ids = inputs["input_ids"]
    if options.num_classes:
        condition["label"] = ids[:, 0] - codes
        # Google's mask is row -1 of the embedding, which is the last.
        ids = np.where(ids[:, 1:] == -1, case.about["config"]["vocab_size"] - 1, ids[:, 1:])
    names = {"encoder_hidden_states": "text", "cond_embeds": "pooled", "micro_conds": "micro"}
    return ids, condition | {ours: inputs[name] for name, ours in names.items() if name in inputs}


def smoothing_of(case, loss):
    """Label smoothing of a loss: its own, else that of the case's only loss."""
    named = case.settings.get("label_smoothing", {})
    if isinstance(named, dict):
        if fitting := [name for name in named if loss.startswith(name)]:
            return named[max(fitting, key=len)]
        return case.number(r"label_smoothing=([\d.]+)")
    return named


def null_of(run, name):
    """The null condition, by its name in `settings`; a batch of one serves all pictures."""
    text = run.condition["text"]
    if name == "zeros":
        return {"text": np.zeros_like(text)}
    null = {"text": run.inputs[name]}
    if (pooled := name.replace("_embeds", "_cond_embeds")) in run.inputs:
        null["pooled"] = run.inputs[pooled]
    return null
