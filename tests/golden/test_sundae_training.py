"""Both twins reproduce SUNDAE's training: corruption, unrolled passes, gradients, optimiser steps."""

import numpy as np
import pytest

from tests.golden.recorded import cases
from tests.golden.recorded_sundae import TEXT, TRAIN, condition_of, opened
from tests.golden.recorded_transformers import close, cross_entropy
from tests.support.sundae import corrupted, passed
from tests.support.tiny_sundae import make_engine
from tests.support.transformers import TWINS


def uniforms(gumbel):
    """Uniforms of recorded Gumbel noise."""
    return np.exp(-np.exp(-gumbel.astype(np.float64)))


def replacements(run, tokens):
    """Uniforms that choose the recorded replacements."""
    return (tokens + 0.5) / run.plan.codebook_size


def check_passes(run, arrays, recorded, rows):
    """Inputs and logits of every pass, mean loss and accuracy; returns the summed gradients, where all logits
    are there.

    `arrays` has the clean tokens and all noise of one batch, `recorded` (unroll, ...) what was computed.
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
            found, grads = run.twin.both(inputs, condition, {"logits": cotangent})
            gradients = {name: gradients.get(name, 0) + grad for name, grad in grads.items()}
        else:
            found = run.twin.forward(inputs, condition)
        logits = found["logits"]
        close(run, logits[:, : expected.shape[1]], (expected, "unroll_logits"))
        terms = passed(run.twin, logits, batch, uniforms(arrays["gumbel"][k]))
        inputs = terms.unrolled
        losses.append(terms.loss.mean())
        accuracies.append(100 * terms.accuracy.mean())
    close(run, np.mean(losses), (recorded["loss"], "loss"))
    close(run, np.mean(accuracies), (recorded["accuracy"], "accuracy"))
    return gradients


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TEXT))
def test_text(name, folder, case):
    run = opened(name, folder, case)
    gradients = check_passes(run, run.inputs, run.outputs, slice(None))
    recorded = [output for output in run.outputs if output.startswith("grad/")]
    assert recorded
    for output in recorded:
        close(run, gradients[output.removeprefix("grad/")], output, "gradients")


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TRAIN))
def test_unrolled_passes(name, folder, case):
    """Of the batches before the first update."""
    run, trainer = opened(name, folder, case), case["constructor"]["trainer"]
    for i in range(trainer["batch_size"] // trainer.get("mini_batch_size", trainer["batch_size"])):
        arrays = {key: value[i] for key, value in run.inputs.items()}
        recorded = {
            key: run.outputs[key][i] for key in ("unroll_inputs", "unroll_logits", "loss", "accuracy")
        }
        check_passes(run, arrays, recorded, i)


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TRAIN))
def test_optimiser_steps(name, folder, case):
    """Through the engine: accumulation, clipping, AdamW on every tensor. Gradients are read from moments."""
    run = opened(name, folder, case)
    constructor, options = case["constructor"], run.plan.options
    trainer = constructor["trainer"]
    parts = trainer["batch_size"] // trainer.get("mini_batch_size", trainer["batch_size"])
    clip = trainer.get("clip_grad_value", 1e9)
    names = ("dim", "depth", "shorten_factor", "nb_heads", "dim_head", "num_classes", "legacy_positions")
    model = [f"model.{option}={getattr(options, option)!r}" for option in names]
    engine = make_engine(
        name, f"data.grid={run.plan.grid}", f"data.target_res={4 * run.plan.grid}",
        f"data.codebook_size={run.plan.codebook_size}", f"data.labels={bool(options.num_classes)}",
        f"loss.unroll_steps={constructor['unroll_steps']}", "loss.weight_decay=0.01",
        "loss.legacy_weight_decay=True", f"train.accumulation_steps={parts}", "optimizer.beta2=0.999",
        "optimizer.clip_gradient_norm=True", f"optimizer.gradient_clip_norm_value={clip}", *model,
    )  # fmt: skip
    engine.state_from_numpy({"model": run.weights})
    previous = 0.0
    for step in range(len(run.inputs["batch"]) // parts):
        chosen = slice(step * parts, (step + 1) * parts)
        arrays = {key: np.concatenate(value[chosen]) for key, value in run.inputs.items() if key != "gumbel"}
        draws = np.concatenate(run.inputs["gumbel"][chosen], 1)
        noise = {
            "share": arrays["corrupt_prob"],
            "corrupt": arrays["corrupt_rand"],
            "replacement": replacements(run, arrays["corrupt_tokens"]),
            **{f"unroll.{k}": uniforms(draws[k]) for k in range(len(draws) - 1)},
        }
        batch = {"tokens": arrays["batch"].astype(np.int32)}
        batch |= {"label": arrays["c"].astype(np.int32)} if "c" in arrays else {}
        engine.train_step(batch, step, {"learning_rate": trainer["learning_rate"]}, noise)
        metrics, state = engine.fetch_metrics(), engine.state_to_numpy()
        close(run, metrics["loss"], (run.outputs["loss"][chosen].mean(), "loss"))
        close(run, 100 * metrics["accuracy"], (run.outputs["accuracy"][chosen].mean(), "accuracy"))
        norm = run.outputs["grad_global_norm"][step]
        close(run, metrics["grad_norm"], (norm, "grad_global_norm"), "gradients")
        for output in run.outputs:
            parameter = output.partition("/")[2]
            if output.startswith(f"grad{step + 1}/"):
                moment, scale = state["optimizer"][f"exp_avg.{parameter}"], min(1, clip / norm)
                grad = (moment - 0.9 * (0 if step == 0 else previous[f"exp_avg.{parameter}"])) / 0.1 / scale
                close(run, grad, output, "gradients")
            elif output.startswith(f"param{step + 1}/"):
                close(run, state["model"][parameter], output, "parameters_after_steps")
        previous = state["optimizer"]
