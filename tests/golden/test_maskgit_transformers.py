"""Both twins reproduce the original masked token transformers: passes, losses, gradients."""

import re

import numpy as np
import pytest

from dioscuri.importers.google import from_google
from tests.golden.recorded import cases
from tests.golden.recorded_tokens import cross_entropy, mean_over_labelled
from tests.golden.recorded_transformers import (
    GOOGLE,
    HALTON,
    KINDS,
    LUCIDRAINS,
    OPEN_MUSE,
    UVIT,
    null_of,
    opened,
    smoothing_of,
)
from tests.support.transformers import TWINS

__all__ = ["KINDS"]
WITHOUT_TEXT = "_cond_dropout"
"""Suffix of outputs of a pass in which some pictures' texts were dropped."""


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


def check_gradients(run, actual, names=lambda name: name):
    """Every recorded gradient; `names` makes canonical ones."""
    for name in run.case.of_prefix("grad:"):
        run.close(actual[names(name)], f"grad:{name}", tolerance="gradients")


def check_layers(run, actual):
    """Residual streams of all layers, or of the U-ViT their feed-forward branches."""
    for i in range(run.plan.options.num_hidden_layers):
        run.close(actual[f"hs_layer{i}"], f"hs_layer{i}")


def check_losses(run, condition, suffix=""):
    """Every loss with this suffix, from a pass with this condition, and the gradients if recorded."""
    logits = run.twin.forward(run.ids, condition)["sequence_logits"]
    for name in run.case.settings["label_smoothing"]:
        if name + suffix not in run.outputs:
            continue
        loss, grad = cross_entropy(logits, *targets_of(run, name), smoothing_of(run.case, name))
        run.close(loss, name + suffix)
        if name + suffix == run.about["loss_for_grads"]:
            check_gradients(run, run.twin.pull_back(run.ids, condition, {"sequence_logits": grad}))


def targets_of(run, loss):
    """Labels and weights of a loss, by its name."""
    if "all_tokens" in loss:
        weights = run.inputs["loss_weight"]
        return run.inputs["image_tokens"], weights / weights.sum()
    return run.inputs["labels"], mean_over_labelled(run.inputs["labels"])


@pytest.mark.parametrize("case", cases(OPEN_MUSE))
def test_open_muse(kind, case):
    run = opened(kind, case)
    actual = run.twin.forward(run.ids, run.condition)
    run.close(actual["sequence_logits"], "logits")
    run.close(actual["hs_embed"], "hs_embed")
    check_layers(run, actual)
    check_losses(run, run.condition)
    if "cond_drop_uniform" in run.inputs:
        keep = run.inputs["cond_drop_uniform"][:, 0, 0] < case.settings["cond_dropout_keep"]
        dropped = {**run.condition, "text_keep": keep}
        run.close(run.twin.forward(run.ids, dropped)["sequence_logits"], f"logits{WITHOUT_TEXT}")
        check_losses(run, dropped, WITHOUT_TEXT)


@pytest.mark.parametrize("case", cases(OPEN_MUSE, UVIT))
def test_passes_under_guidance(kind, case):
    """The network's outputs in the last step of every recorded call, of both halves of the batch."""
    run = opened(kind, case)
    for tag, call in case.settings["generate2"].items():
        ids, condition = run.outputs[f"{tag}_model_input_ids"][-1], run.condition
        if run.plan.class_token:
            ids, condition = ids[:, 1:], {"label": ids[:, 0] - run.plan.codebook_size}
        elif call["guidance_scale"]:
            null = {name: np.broadcast_to(array, condition[name].shape)
                    for name, array in null_of(run, call["uncond"]).items()}  # fmt: skip
            condition = {
                name: np.concatenate([array, null.get(name, array)]) for name, array in condition.items()
            }
        actual = run.twin.forward(ids, condition, prepared=not run.plan.class_token)
        run.close(actual["sequence_logits"], f"{tag}_model_logits_last")


@pytest.mark.parametrize("case", cases(UVIT))
def test_uvit(kind, case):
    run = opened(kind, case)
    actual = run.twin.forward(run.ids, run.condition)
    run.close(actual["sequence_logits"], "logits")
    for name in ("cond_embed_in", "cond_embed_out"):
        run.close(actual[name], name)
    check_layers(run, actual)
    for name in ("hs_embed", "down_out", "up_out"):
        run.close(actual[name].transpose(0, 3, 1, 2), name)
    check_losses(run, run.condition)


@pytest.mark.parametrize("case", cases(GOOGLE))
def test_google(kind, case):
    run = opened(kind, case)
    actual = run.twin.forward(run.ids, run.condition)
    run.close(actual["sequence_logits"], "logits")
    weights, name = run.inputs["loss_weights"], case.about["loss_for_grads"]
    weights = weights / weights.sum(1, keepdims=True) / len(weights)
    smoothing = smoothing_of(case, name)
    loss, grad = cross_entropy(actual["sequence_logits"], run.inputs["labels"], weights, smoothing)
    run.close(loss, name)
    gradients = run.twin.pull_back(run.ids, run.condition, {"sequence_logits": grad})
    recorded = from_google(case.of_prefix("grad:"))
    assert set(gradients) == set(recorded)
    for name, array in recorded.items():
        run.close(gradients[name], name, array, "gradients")


@pytest.mark.parametrize("case", cases(HALTON))
def test_halton(kind, case):
    run = opened(kind, case)
    actual = run.twin.forward(run.ids, run.condition)
    run.close(actual["logits"], "logits")
    labels = run.inputs["code"].reshape(run.ids.shape)
    loss, grad = cross_entropy(actual["logits"], labels, np.full(labels.shape, 1 / labels.size))
    run.close(loss, case.about["loss_for_grads"])
    check_gradients(run, run.twin.pull_back(run.ids, run.condition, {"logits": grad}))


@pytest.mark.parametrize("case", cases(LUCIDRAINS))
def test_lucidrains(kind, case):
    run = opened(kind, case)
    logits = run.twin.forward(run.ids, run.condition)["logits"]
    run.close(logits, "logits_cond")
    null = run.twin.forward(run.ids, {**run.condition, "text_keep": np.zeros(len(run.ids))})["logits"]
    run.close(null, "logits_null")
    for scale in case.of_prefix("logits_scale"):
        run.close(null + float(scale) * (logits - null), f"logits_scale{scale}")
    none = run.twin.forward(run.ids, {})["logits"]
    run.close(none, "logits_null")
    last = run.plan.codebook_size - 1
    critic = run.twin.criticise(run.ids.clip(max=last), run.condition)
    run.close(critic[..., None], "critic")


@pytest.mark.parametrize("case", cases(LUCIDRAINS))
def test_lucidrains_training(kind, case):
    """Cross-entropy of the generator with self-conditioning, and of the critic on the generator's samples."""
    run = opened(kind, case)
    truth, masked, labels = lucidrains_masks(run)
    ids = np.where(masked, run.plan.mask_id, truth)
    condition = {**run.condition, "self": run.twin.forward(ids, run.condition)["embed"]}
    logits = run.twin.forward(ids, condition)["logits"]
    loss, grad = cross_entropy(logits, labels, mean_over_labelled(labels, -1))
    gradients = run.twin.pull_back(ids, condition, {"logits": grad})
    uniform = run.inputs["train_gumbel_uniform"].clip(1e-20)
    temperature = case.number(r"argmax\(logits/([\d.]+)")
    drawn = (logits / temperature - np.log((-np.log(uniform)).clip(1e-20))).argmax(-1)
    drawn = np.where(masked, drawn, ids)
    wrong, scores = drawn != truth, run.twin.criticise(drawn, run.condition).astype(np.float64)
    critic_loss = np.logaddexp(0, np.where(wrong, -scores, scores)).mean()
    weight = case.about["config"]["critic_loss_weight"]
    run.close(loss + weight * critic_loss, "train_loss")
    cotangent = weight * (1 / (1 + np.exp(-scores)) - wrong) / scores.size
    for name, value in run.twin.criticise(drawn, run.condition, cotangent).items():
        gradients[name] = gradients[name] + value
    check_gradients(
        run, gradients, lambda name: re.sub("^token_critic", "critic", name.removeprefix("transformer."))
    )


def lucidrains_masks(run):
    """True ids, mask, and labels (-1: none), all (B, L), from the recorded noise."""
    inputs, share = run.inputs, run.about["config"]["no_mask_token_prob"]
    truth = inputs["ids"].reshape(len(inputs["ids"]), -1)
    ratio = np.cos(inputs["train_draw0_uniform"] * np.pi / 2)
    n = np.round(truth.shape[1] * ratio).clip(1)
    masked = inputs["train_draw1_rand"].argsort(-1) < n[:, None]
    labels = np.where(masked, truth, -1)
    draws = np.where(masked, inputs["train_draw2_rand"], -1)
    ranks = draws.argsort(-1).argsort(-1) - (~masked).sum(-1, keepdims=True)
    shown = masked & (ranks < share * masked.sum(-1, keepdims=True))
    return truth, masked & ~shown, labels
