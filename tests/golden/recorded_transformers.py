"""Recorded cases of masked token transformers, under our names, and what their losses are made of."""

from types import SimpleNamespace

import numpy as np
from safetensors.numpy import load_file

from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.importers.google import from_google, google_options
from dioscuri.importers.halton import from_halton, halton_options
from dioscuri.importers.lucidrains import from_lucidrains, lucidrains_options
from dioscuri.importers.open_muse import open_muse_options

RUNNERS = (
    "maskgit_transformer",
    "uvit",
    "maskgit_flax_transformer",
    "halton_maskgit",
    "lucidrains_token_critic",
)


def opened(kind, folder, case):
    """Twin with the recorded weights, token ids (B, L), condition, recorded arrays."""
    inputs, outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
    options, codes, weights = imported(case, load_file(folder / case["weights"]["file"]))
    ids, condition = model_inputs(case, options, codes, inputs, outputs)
    plan = make_plan(options, int(np.sqrt(ids.shape[1])), codes)
    run = SimpleNamespace(case=case, inputs=inputs, outputs=outputs, plan=plan, weights=weights)
    run.twin, run.ids, run.condition = kind(plan, weights), ids, condition
    return run


def imported(case, weights):
    """Options, number of codes and weights of a case."""
    config, runner = case["config"], case["runner"]
    if runner == "maskgit_flax_transformer":
        codes = case["codebook_size"]
        return google_options(config, codes), codes, from_google(weights)
    if runner == "halton_maskgit":
        return halton_options(config), config["codebook_size"], from_halton(weights)
    if runner == "lucidrains_token_critic":
        network = config["transformer"]
        options = lucidrains_options(network, config["text_embed_dim"], critic="token")
        return options, network["num_tokens"], from_lucidrains(weights, self_cond=network["self_cond"])
    return open_muse_options(config), config["codebook_size"], weights


def model_inputs(case, options, codes, inputs, outputs):
    """Ids without class token, and the condition."""
    condition = {}
    if case["runner"] == "halton_maskgit":
        label = np.where(inputs["drop_label"], options.num_classes, inputs["y"])
        return outputs["masked_code:arccos"].reshape(len(label), -1), {"label": label}
    if case["runner"] == "lucidrains_token_critic":
        return inputs["x_part"], {"text": inputs["text_embeds"]}
    ids = inputs["input_ids"]
    if options.num_classes:
        condition["label"] = ids[:, 0] - codes
        # Google's mask is row -1 of the embedding, which is the last.
        ids = np.where(ids[:, 1:] == -1, case["config"]["vocab_size"] - 1, ids[:, 1:])
    names = {"encoder_hidden_states": "text", "cond_embeds": "pooled", "micro_conds": "micro"}
    return ids, condition | {ours: inputs[name] for name, ours in names.items() if name in inputs}


def close(run, found, name, tolerance="outputs"):
    """Compare with a recorded array, or a pair (array, its name)."""
    expected, name = name if isinstance(name, tuple) else (run.outputs[name], name)
    tol = run.case["tol"][tolerance]
    limit = max(tol["of_max"] * np.abs(expected).max(), tol.get("abs_floor", 0))
    near = np.abs(np.asarray(found) - expected) <= limit
    assert np.shape(found) == expected.shape, name
    assert near.mean() >= tol.get("share_of_entries", 1), (name, np.abs(found - expected).max(), limit)


def cross_entropy(logits, labels, weights, smoothing=0.0):
    """Weighted sum of cross entropies, and its gradient: logits (B, L, K), labels and weights (B, L)."""
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    K = logits.shape[-1]
    target = (1 - smoothing) * (labels[..., None] == np.arange(K)) + smoothing / K
    loss = -(weights[..., None] * target * log_p).sum()
    return loss, weights[..., None] * (np.exp(log_p) - target)


def mean_over_labelled(labels, ignored=-100):
    """Weights of a mean over the positions that have a label."""
    return (labels != ignored) / (labels != ignored).sum()
