"""Both twins reproduce SUNDAE's training: corruption, unrolled passes, gradients, optimiser steps."""

from dataclasses import fields

import numpy as np
import pytest

from tests.golden.recorded import cases, repeats
from tests.golden.recorded_sundae import TEXT, TRAIN, condition_of, opened
from tests.golden.recorded_tokens import cross_entropy
from tests.support.sundae import corrupted, passed
from tests.support.tiny_sundae import make_engine
from tests.support.transformers import TWINS

KINDS = [TRAIN, TEXT]


def uniforms(gumbel):
    """Uniform noise for recorded Gumbel noise."""
    return np.exp(-np.exp(-gumbel.astype(np.float64)))


def replacements(run, tokens):
    """Uniform noise that gives the recorded replacements."""
    return (tokens + 0.5) / run.plan.codebook_size


def check_passes(run, arrays, recorded, rows):
    """Check inputs and logits of every pass, mean loss and accuracy; return the summed
    gradients if all logits are recorded.

    `arrays` has the clean tokens and all noise of one batch, `recorded` the results (unroll, ...).
    """
    batch, K = arrays["batch"], len(recorded["unroll_inputs"])
    inputs = corrupted(
        run.twin,
        batch,
        arrays["corrupt_prob"],
        arrays["corrupt_rand"],
        replacements(run, arrays["corrupt_tokens"]),
    )
    losses, accuracies, gradients, condition = [], [], {}, condition_of(run, rows)
    for k in range(K):
        np.testing.assert_array_equal(inputs, recorded["unroll_inputs"][k])
        expected = recorded["unroll_logits"][k]
        if expected.shape[1] == batch.shape[1]:
            _, cotangent = cross_entropy(expected, batch, np.full(batch.shape, 1 / batch.size / K))
            actual, grads = run.twin.both(inputs, condition, {"logits": cotangent})
            gradients = {name: gradients.get(name, 0) + grad for name, grad in grads.items()}
        else:
            actual = run.twin.forward(inputs, condition)
        logits = actual["logits"]
        run.close(logits[:, : expected.shape[1]], "unroll_logits", expected)
        terms = passed(run.twin, logits, batch, uniforms(arrays["gumbel"][k]))
        inputs = terms.unrolled
        losses.append(terms.loss.mean())
        accuracies.append(100 * terms.accuracy.mean())
    run.close(np.mean(losses), "loss", recorded["loss"])
    run.close(np.mean(accuracies), "accuracy", recorded["accuracy"])
    return gradients


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(TEXT))
def test_text(name, case):
    run = opened(name, case)
    gradients = check_passes(run, run.inputs, run.outputs, slice(None))
    for output in case.of_prefix("grad/"):
        run.close(gradients[output], f"grad/{output}", tolerance="gradients")


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(TRAIN))
def test_unrolled_passes(name, case):
    """The batches before the first update."""
    run = opened(name, case)
    for i in range(mini_batches(case)):
        arrays = {key: value[i] for key, value in run.inputs.items()}
        recorded = {
            key: run.outputs[key][i] for key in ("unroll_inputs", "unroll_logits", "loss", "accuracy")
        }
        check_passes(run, arrays, recorded, i)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(TRAIN))
def test_optimiser_steps(twin, case):
    """In the engine: accumulation, clipping, AdamW on every tensor. Gradients follow from the moments."""
    run = opened(twin, case)
    trainer, parts = case.about["constructor"]["trainer"], mini_batches(case)
    optimizer = optimizer_of(case)
    engine = make_engine(twin, *options_words(run, optimizer), f"train.accumulation_steps={parts}")
    engine.state_from_numpy({"model": run.weights})
    previous = {}
    for step, norm in enumerate(run.outputs["grad_global_norm"]):
        chosen = slice(step * parts, (step + 1) * parts)
        batch, noise = step_inputs(run, chosen, repeats(trainer["batch_size"], parts, engine.device_count))
        engine.train_step(batch, step, {"learning_rate": optimizer["lr"]}, noise)
        metrics, state = engine.fetch_metrics(), engine.state_to_numpy()
        run.close(metrics["loss"], "loss", run.outputs["loss"][chosen].mean())
        run.close(100 * metrics["accuracy"], "accuracy", run.outputs["accuracy"][chosen].mean())
        run.close(metrics["grad_norm"], "grad_global_norm", norm, "gradients")
        moments, scale = state["optimizer"], min(1, optimizer["clip"] / norm)
        for parameter in case.of_prefix(f"grad{step + 1}/"):
            name, beta = f"exp_avg.{parameter}", optimizer["beta1"]
            grad = (moments[name] - beta * previous.get(name, 0)) / (1 - beta) / scale
            run.close(grad, f"grad{step + 1}/{parameter}", tolerance="gradients")
        for parameter in case.of_prefix(f"param{step + 1}/"):
            after = state["model"][parameter]
            run.close(after, f"param{step + 1}/{parameter}", tolerance="parameters_after_steps")
        previous = moments


def mini_batches(case):
    """Number of mini-batches in an optimiser step."""
    trainer = case.about["constructor"]["trainer"]
    return trainer["batch_size"] // trainer.get("mini_batch_size", trainer["batch_size"])


def optimizer_of(case):
    """The optimiser's numbers from the sentence about it; without clipping, the maximum norm is infinite."""
    rate, beta1, beta2, eps, decay = map(
        float, case.said(r"AdamW\(lr=(.+?)\).*betas=\((.+?),(.+?)\) eps=(\S+) weight_decay=(\S+)")
    )
    (clip,) = case.said(r"clip_grad_norm_=([\w.-]+)")
    named = {"lr": rate, "beta1": beta1, "beta2": beta2, "eps": eps, "weight_decay": decay}
    return {**named, "clip": np.inf if clip == "None" else float(clip)}


def options_words(run, optimizer):
    """Overrides that turn the tiny configuration into the case's."""
    plan = run.plan
    model = {field.name: getattr(plan.options, field.name) for field in fields(plan.options)}
    clips = np.isfinite(optimizer["clip"])
    return [
        f"data.grid={plan.grid}", f"data.target_res={4 * plan.grid}",
        f"data.codebook_size={plan.codebook_size}", f"data.labels={bool(plan.options.num_classes)}",
        f"loss.unroll_steps={run.about['constructor']['unroll_steps']}",
        f"loss.weight_decay={optimizer['weight_decay']}", "loss.legacy_weight_decay=True",
        *(f"optimizer.{name}={optimizer[name]}" for name in ("beta1", "beta2")),
        f"optimizer.epsilon={optimizer['eps']}", f"optimizer.clip_gradient_norm={clips}",
        *([f"optimizer.gradient_clip_norm_value={optimizer['clip']}"] if clips else []),
        *(f"model.{name}={value!r}" for name, value in model.items()),
    ]  # fmt: skip


def step_inputs(run, chosen, times):
    """Batch and noise of a step's mini-batches, each row repeated `times` times."""
    arrays = {
        key: np.concatenate(value[chosen]).repeat(times, 0)
        for key, value in run.inputs.items()
        if key != "gumbel"
    }
    draws = np.concatenate(run.inputs["gumbel"][chosen], 1).repeat(times, 1)
    noise = {
        "share": arrays["corrupt_prob"],
        "corrupt": arrays["corrupt_rand"],
        "replacement": replacements(run, arrays["corrupt_tokens"]),
        **{f"unroll.{k}": uniforms(draws[k]) for k in range(len(draws) - 1)},
    }
    batch = {"tokens": arrays["batch"].astype(np.int32)}
    return batch | ({"label": arrays["c"].astype(np.int32)} if "c" in arrays else {}), noise
