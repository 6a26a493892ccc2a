"""Optimiser steps of the original trainer of 1-D tokens around the gradients of both twins; the update is
computed here in float64."""

from dataclasses import replace

import numpy as np
import pytest

from dioscuri import schedules
from dioscuri.families.maskgit.model_options import Transformer
from dioscuri.families.maskgit.transformers import make_plan, parameter_table
from dioscuri.importers.titok_generators import from_titok_generator, to_original_names
from dioscuri.plans.parameters import shapes
from tests.golden.recorded import cases
from tests.golden.recorded_one_d import TABLES, TRAINER, masking_of, opened
from tests.golden.recorded_tokens import cross_entropy
from tests.support.tiny_maskgit import tiny
from tests.support.transformers import TWINS

GENERATORS = {
    "uvitbert": {"num_classes": 2},
    "imagebert": {"num_classes": 2},
    "maskgen_vq": {"architecture": "maskgen", "encoder_hidden_size": 8, "cond_embed_dim": 8},
}
"""Small models of the classes whose parameters the case lists."""


def small(name):
    """Options and table of a small model."""
    options = Transformer(
        **{"architecture": name, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
        | GENERATORS[name]
    )
    return options, parameter_table(make_plan(options, 0, 4, sequence_length=4))


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("case", cases(TRAINER))
def test_weight_decay(case, name):
    """Parameters without weight decay are those that the case lists."""
    (options, table), listed = small(name), case.settings["undecayed_parameters"]
    flags = {key: np.full(entry.shape, entry.decays) for key, entry in table.items()}
    decays = {key: bool(flag.all()) for key, flag in to_original_names(flags, options).items()}
    assert {key for key in decays if not decays[key]} == set(listed[name])
    if f"{name}_decayed" in listed:
        assert {key for key in decays if decays[key]} == set(listed[f"{name}_decayed"])


def optimizer_of(settings, base):
    """Options of the original's cosine schedule: to the last step from the end of the warm-up on."""
    warmup = settings["warmup_steps"]
    return replace(
        base,
        learning_rate=settings["learning_rate"],
        min_learning_rate=settings["end_lr"],
        warmup_steps=float(warmup),
        decay_start=warmup,
        decay_steps=settings["max_train_steps"] - warmup,
        learning_rate_scheme="cosine",
    )


@pytest.mark.parametrize("case", cases(TABLES))
def test_learning_rates(case):
    """From the end on, where the original's cosine would rise again, the rate stays."""
    given = case.settings["lr"]
    settings = {
        "learning_rate": given["base_lr"],
        "end_lr": given["end_lr"],
        "warmup_steps": given["num_warmup_steps"],
        "max_train_steps": given["num_training_steps"],
    }
    cosine = optimizer_of(settings, tiny().optimizer)
    constant = replace(cosine, learning_rate_scheme="constant")
    for name, options, steps in (
        ("lr_cosine", cosine, given["num_training_steps"] + 1),
        ("lr_constant", constant, given["steps"]),
    ):
        actual = [schedules.learning_rate(step, options) for step in range(min(steps, given["steps"]))]
        case.close(actual, name, case.outputs[name][: len(actual)])


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(TRAINER))
def test_training_steps(twin, case):
    """AdamW with clipping, warm-up, cosine and the moving average."""
    run, settings, base = opened(TWINS[twin], case), case.settings["optimizer"], tiny()
    optimizer = optimizer_of(settings, base.optimizer)
    train = replace(base.train, ema_decay=case.settings["ema"]["decay"], ema_warmup="count")
    beta1, beta2 = settings["beta1"], settings["beta2"]
    weights = {name: array.astype(np.float64) for name, array in run.weights.items()}
    decays = {name: entry.decays for name, entry in parameter_table(run.plan).items()}
    averages = dict(weights)
    first, second = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    for step in range(len(run.outputs["losses"])):
        run.twin.weights = weights
        grads, norm = gradients(run, step)
        rate, ema = schedules.learning_rate(step, optimizer), schedules.ema_decay(step, train)
        run.close(rate, "lr", run.outputs["lr"][step])
        run.close(ema, "ema_decay", run.outputs["ema_decay"][step])
        for name, grad in grads.items():
            grad = grad * min(1, settings["max_grad_norm"] / (norm + 1e-6))
            first[name] = beta1 * first[name] + (1 - beta1) * grad
            second[name] = beta2 * second[name] + (1 - beta2) * grad**2
            root = np.sqrt(second[name] / (1 - beta2 ** (step + 1))) + settings["eps"]
            decay = settings["weight_decay"] * decays[name]
            update = first[name] / (1 - beta1 ** (step + 1)) / root + decay * weights[name]
            weights[name] = weights[name] - rate * update
            averages[name] = ema * averages[name] + (1 - ema) * weights[name]
    for prefix, actual in (("after:", weights), ("ema:", averages)):
        original = to_original_names(actual, run.plan.options)
        for name in case.of_prefix(prefix):
            run.close(original[name], prefix + name)


def gradients(run, step):
    """Gradients of a step's loss and their norm, after comparing loss and norm."""
    tokens, mask = run.inputs["tokens"][step], run.inputs["masks"][step]
    options, condition = masking_of(run), {"label": run.inputs["condition"][step]}
    ids = np.where(mask, run.plan.mask_id, tokens)
    weights = np.where(mask, 1, options.loss_weight_unmasked_token)
    logits = run.twin.forward(ids, condition)["logits"]
    loss, grad = cross_entropy(logits, tokens, weights / weights.sum(), options.label_smoothing)
    run.close(loss, "losses", run.outputs["losses"][step])
    grads = run.twin.pull_back(ids, condition, {"logits": grad})
    norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values()))
    run.close(norm, "grad_norm_before_clip", run.outputs["grad_norm_before_clip"][step], "gradients")
    return grads, norm


@pytest.mark.parametrize("name", GENERATORS)
def test_names_travel_both_ways(name):
    """Canonical names and shapes come back from the original ones."""
    options, table = small(name)
    weights = {key: np.zeros(entry.shape) for key, entry in table.items()}
    again = from_titok_generator(to_original_names(weights, options), options)
    assert {key: array.shape for key, array in again.items()} == shapes(table)
