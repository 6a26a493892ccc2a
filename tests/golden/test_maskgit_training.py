"""Optimiser steps of open-muse around the gradients of both twins; the update is computed here in float64."""

import ast
from dataclasses import replace

import numpy as np
import pytest

from dioscuri import schedules
from tests.golden.recorded import cases
from tests.golden.recorded_tokens import cross_entropy, mean_over_labelled
from tests.golden.recorded_transformers import OPEN_MUSE, opened
from tests.support.tiny_maskgit import tiny
from tests.support.transformers import TWINS

OPTIMIZER = r"AdamW lr (\S+) betas \((\S+),(\S+)\) wd (\S+) eps (\S+)"


def decayed(case, names):
    """Whether each parameter decays: all do, except those whose names contain a listed word."""
    groups = case.about["train"]["weight_decay_groups"]
    words = ast.literal_eval(groups[groups.index("[") : groups.index("]") + 1]) if "[" in groups else []
    return {name: not any(word in name for word in words) for name in names}


def rates(case, step):
    """Learning rate and decay of the average in a step, by the case's schedules."""
    base, options = tiny(), case.about["train"]
    peak, warmup = float(case.said(OPTIMIZER)[0]), case.number(r"_with_warmup warmup (\d+)")
    decay, after = map(float, case.said(r"EMAModel decay (\S+), update_after_step (\d+)"))
    scheme = options["lr_schedule"].split()[0]
    optimizer = replace(
        base.optimizer,
        learning_rate=peak,
        min_learning_rate=0.0,
        warmup_steps=warmup,
        learning_rate_scheme=scheme,
    )
    train = replace(base.train, ema_decay=decay, ema_update_after=int(after), ema_warmup="count")
    return schedules.learning_rate(step, optimizer), schedules.ema_decay(step, train)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(OPEN_MUSE, output="train_losses"))
def test_training_steps(twin, case):
    """AdamW with clipping, warm-up and the moving average."""
    run = opened(TWINS[twin], case)
    _, beta1, beta2, decay, eps = map(float, case.said(OPTIMIZER))
    clip, smoothing = case.number(r"global norm (\S+)"), case.number(r"^label smoothing ([\d.]+)")
    weights = {name: array.astype(np.float64) for name, array in run.weights.items()}
    decays, averages = decayed(case, weights), dict(weights)
    first, second = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    steps = case.about["train"]["n"]
    for step in range(steps):
        run.twin.weights = weights
        grads, norm = check_gradients(run, step, smoothing)
        rate, ema = rates(case, step)
        assert rate == pytest.approx(float(run.outputs["train_lr"][step]), rel=1e-6)
        assert ema == pytest.approx(float(run.outputs["train_ema_decay"][step]), rel=1e-6)
        for name, grad in grads.items():
            grad = grad * min(1, clip / (norm + 1e-6))
            first[name] = beta1 * first[name] + (1 - beta1) * grad
            second[name] = beta2 * second[name] + (1 - beta2) * grad**2
            root = np.sqrt(second[name] / (1 - beta2 ** (step + 1))) + eps
            update = first[name] / (1 - beta1 ** (step + 1)) / root + decay * decays[name] * weights[name]
            weights[name] = weights[name] - rate * update
            averages[name] = ema * averages[name] + (1 - ema) * weights[name]
    for prefix, actual in ((f"after{steps}:", weights), (f"ema{steps}:", averages)):
        for name in case.of_prefix(prefix):
            run.close(actual[name], prefix + name, tolerance="parameters_after_steps")


def check_gradients(run, step, smoothing):
    """Gradients of a step's loss and their norm, both compared."""
    labels = run.inputs["labels"]
    logits = run.twin.forward(run.ids, run.condition)["sequence_logits"]
    loss, grad = cross_entropy(logits, labels, mean_over_labelled(labels), smoothing)
    run.close(loss, "train_losses", run.outputs["train_losses"][step])
    grads = run.twin.pull_back(run.ids, run.condition, {"sequence_logits": grad})
    norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values()))
    name = "train_grad_norm_before_clip"
    run.close(norm, name, run.outputs[name][step], "gradients")
    return grads, norm
