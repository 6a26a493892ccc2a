"""Both twins reproduce the original masked token transformers: passes, losses, gradients, training steps."""

import numpy as np
import pytest

from dioscuri.importers.google import from_google
from tests.golden.recorded import cases
from tests.golden.recorded_transformers import RUNNERS, close, cross_entropy, mean_over_labelled, opened
from tests.support.transformers import TWINS

KINDS = [("maskgit", runner) for runner in RUNNERS]
OPEN_MUSE, UVIT, GOOGLE, HALTON, LUCIDRAINS = KINDS

NOT_DECAYED = ("bias", "layer_norm.weight", "mlm_ln.weight", "embeddings.weight")
"""Parts of names of what open-muse's text training excludes from weight decay."""


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


def check_gradients(run, found, names=None):
    recorded = [name for name in run.outputs if name.startswith("grad:")]
    assert recorded
    for name in recorded:
        ours = name.removeprefix("grad:") if names is None else names(name.removeprefix("grad:"))
        close(run, found[ours], name, "gradients")


@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE))
def test_open_muse(kind, folder, case):
    run = opened(kind, folder, case)
    found = run.twin.forward(run.ids, run.condition)
    close(run, found["sequence_logits"], "logits")
    for name in ("hs_embed", *(f"hs_layer{i}" for i in range(run.plan.options.num_hidden_layers))):
        close(run, found[name], name)
    labels = run.inputs["labels"]
    weights = mean_over_labelled(labels)
    close(run, cross_entropy(found["sequence_logits"], labels, weights)[0], "loss_ls0")
    if "cond_drop_uniform" in run.inputs:
        keep = run.inputs["cond_drop_uniform"][:, 0, 0] < 0.8
        run.condition["text_keep"] = keep
        found = run.twin.forward(run.ids, run.condition)
        close(run, found["logits"], "logits_cond_dropout")
    loss, grad = cross_entropy(found["sequence_logits"], labels, weights, 0.1)
    close(run, loss, case["loss_for_grads"])
    check_gradients(run, run.twin.pull_back(run.ids, run.condition, {"sequence_logits": grad}))


@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE))
def test_open_muse_under_guidance(kind, folder, case):
    run = opened(kind, folder, case)
    tag = next((tag for tag in ("gen2", "gen2neg") if f"{tag}_model_input_ids" in run.outputs), None)
    ids = run.outputs[f"{tag}_model_input_ids"][-1]
    if run.plan.class_token:
        found = run.twin.forward(ids[:, 1:], {"label": ids[:, 0] - run.plan.codebook_size})
        close(run, found["sequence_logits"], f"{tag}_model_logits_last")
        return
    text = run.inputs["encoder_hidden_states"]
    condition = {"text": np.concatenate([text, np.zeros_like(text)])}
    close(run, run.twin.forward(ids, condition, prepared=True)["logits"], f"{tag}_model_logits_last")


@pytest.mark.parametrize(("folder", "case"), cases(UVIT))
def test_uvit(kind, folder, case):
    run = opened(kind, folder, case)
    found = run.twin.forward(run.ids, run.condition)
    close(run, found["logits"], "logits")
    for name in ("cond_embed_in", "cond_embed_out", "hs_layer0", "hs_layer1"):
        close(run, found[name], name)
    for name in ("hs_embed", "down_out", "up_out"):
        close(run, found[name].transpose(0, 3, 1, 2), name)
    labels, weights = run.inputs["image_tokens"], run.inputs["loss_weight"]
    loss, _ = cross_entropy(found["logits"], labels, weights / weights.sum(), 0.1)
    close(run, loss, "loss_all_tokens_weighted_ls01")
    labels = run.inputs["labels"]
    loss, grad = cross_entropy(found["logits"], labels, mean_over_labelled(labels), 0.1)
    close(run, loss, case["loss_for_grads"])
    check_gradients(run, run.twin.pull_back(run.ids, run.condition, {"logits": grad}))


@pytest.mark.parametrize(("folder", "case"), cases(UVIT))
def test_uvit_under_guidance(kind, folder, case):
    run = opened(kind, folder, case)
    inputs, ids = run.inputs, run.outputs["gen2neg_model_input_ids"][-1]
    condition = {
        "text": np.concatenate([inputs["encoder_hidden_states"], inputs["negative_embeds"]]),
        "pooled": np.concatenate([inputs["cond_embeds"], inputs["negative_cond_embeds"]]),
        "micro": np.concatenate([inputs["micro_conds"]] * 2),
    }
    close(run, run.twin.forward(ids, condition, prepared=True)["logits"], "gen2neg_model_logits_last")


@pytest.mark.parametrize(("folder", "case"), cases(GOOGLE))
def test_google(kind, folder, case):
    run = opened(kind, folder, case)
    found = run.twin.forward(run.ids, run.condition)
    close(run, found["sequence_logits"], "logits")
    weights = run.inputs["loss_weights"]
    weights = weights / weights.sum(1, keepdims=True) / len(weights)
    loss, grad = cross_entropy(found["sequence_logits"], run.inputs["labels"], weights, 0.1)
    close(run, loss, case["loss_for_grads"])
    gradients = run.twin.pull_back(run.ids, run.condition, {"sequence_logits": grad})
    recorded = {
        name.removeprefix("grad:"): array for name, array in run.outputs.items() if name.startswith("grad:")
    }
    for name, array in from_google(recorded).items():
        close(run, gradients[name], (array, name), "gradients")
    assert set(gradients) == set(from_google(recorded))


@pytest.mark.parametrize(("folder", "case"), cases(HALTON))
def test_halton(kind, folder, case):
    run = opened(kind, folder, case)
    found = run.twin.forward(run.ids, run.condition)
    close(run, found["logits"], "logits")
    labels = run.inputs["code"].reshape(run.ids.shape)
    loss, grad = cross_entropy(found["logits"], labels, np.full(labels.shape, 1 / labels.size))
    close(run, loss, case["loss_for_grads"])
    check_gradients(run, run.twin.pull_back(run.ids, run.condition, {"logits": grad}))


@pytest.mark.parametrize(("folder", "case"), cases(LUCIDRAINS))
def test_lucidrains(kind, folder, case):
    run = opened(kind, folder, case)
    logits = run.twin.forward(run.ids, run.condition)["logits"]
    close(run, logits, "logits_cond")
    null = run.twin.forward(run.ids, {**run.condition, "text_keep": np.zeros(len(run.ids))})["logits"]
    close(run, null, "logits_null")
    close(run, null + 3 * (logits - null), "logits_scale3")
    none = run.twin.forward(run.ids, {})["logits"]
    close(run, none, "logits_null")
    last = run.plan.codebook_size - 1
    critic = run.twin.criticise(run.ids.clip(max=last), run.condition)
    close(run, critic[..., None], "critic")


@pytest.mark.parametrize(("folder", "case"), cases(LUCIDRAINS))
def test_lucidrains_training(kind, folder, case):
    """Cross entropy of the generator with self-conditioning, and the critic's on what the generator draws."""
    run = opened(kind, folder, case)
    truth, masked, labels = lucidrains_masks(run)
    ids = np.where(masked, run.plan.mask_id, truth)
    condition = {**run.condition, "self": run.twin.forward(ids, run.condition)["embed"]}
    logits = run.twin.forward(ids, condition)["logits"]
    loss, grad = cross_entropy(logits, labels, mean_over_labelled(labels, -1))
    gradients = run.twin.pull_back(ids, condition, {"logits": grad})
    uniform = run.inputs["train_gumbel_uniform"].clip(1e-20)
    drawn = (logits / 0.37 - np.log((-np.log(uniform)).clip(1e-20))).argmax(-1)
    drawn = np.where(masked, drawn, ids)
    wrong, scores = drawn != truth, run.twin.criticise(drawn, run.condition).astype(np.float64)
    critic_loss = np.logaddexp(0, np.where(wrong, -scores, scores)).mean()
    weight = case["config"]["critic_loss_weight"]
    close(run, loss + weight * critic_loss, "train_loss")
    cotangent = weight * (1 / (1 + np.exp(-scores)) - wrong) / scores.size
    for name, value in run.twin.criticise(drawn, run.condition, cotangent).items():
        gradients[name] = gradients[name] + value
    check_gradients(
        run,
        gradients,
        lambda name: name.replace("token_critic.", "critic.").removeprefix("transformer."),
    )


def lucidrains_masks(run):
    """True ids, what is masked, and labels (-1: none), all (B, L), from the recorded draws."""
    inputs, share = run.inputs, run.case["config"]["no_mask_token_prob"]
    truth = inputs["ids"].reshape(len(inputs["ids"]), -1)
    ratio = np.cos(inputs["train_draw0_uniform"] * np.pi / 2)
    n = np.round(truth.shape[1] * ratio).clip(1)
    masked = inputs["train_draw1_rand"].argsort(-1) < n[:, None]
    labels = np.where(masked, truth, -1)
    draws = np.where(masked, inputs["train_draw2_rand"], -1)
    ranks = draws.argsort(-1).argsort(-1) - (~masked).sum(-1, keepdims=True)
    kept = masked & (ranks < share * masked.sum(-1, keepdims=True))
    return truth, masked & ~kept, labels


@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE, output="train_losses"))
def test_training_steps(kind, folder, case):
    """AdamW with clipping, warm-up and the moving average, in float64 around the twin's gradients."""
    run = opened(kind, folder, case)
    smoothing = 0.1 if "0.1" in case["training_steps"] else 0.0
    grouped = case["train"]["weight_decay_groups"].startswith("grouped")
    labels = run.inputs["labels"]
    weights = {name: array.astype(np.float64) for name, array in run.weights.items()}
    averages = dict(weights)
    first, second = ({name: np.zeros_like(array) for name, array in weights.items()} for _ in range(2))
    for step in range(case["train"]["n"]):
        run.twin.weights = weights
        logits = run.twin.forward(run.ids, run.condition)["sequence_logits"]
        loss, grad = cross_entropy(logits, labels, mean_over_labelled(labels), smoothing)
        close(run, loss, (run.outputs["train_losses"][step], "train_losses"))
        grads = run.twin.pull_back(run.ids, run.condition, {"sequence_logits": grad})
        norm = np.sqrt(sum((grad.astype(np.float64) ** 2).sum() for grad in grads.values()))
        close(run, norm, (run.outputs["train_grad_norm_before_clip"][step], "norm"), "gradients")
        rate, decay = 2e-3 * step / 2, step and min(0.9999, (1 + step) / (10 + step))
        assert run.outputs["train_lr"][step] == np.float32(rate)
        assert run.outputs["train_ema_decay"][step] == np.float32(decay)
        for name, grad in grads.items():
            grad = grad * min(1, 0.5 / (norm + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * grad
            second[name] = 0.98 * second[name] + 0.02 * grad**2
            decays = not (grouped and any(part in name for part in NOT_DECAYED))
            root = np.sqrt(second[name] / (1 - 0.98 ** (step + 1))) + 1e-8
            update = first[name] / (1 - 0.9 ** (step + 1)) / root + 0.01 * decays * weights[name]
            weights[name] = weights[name] - rate * update
            averages[name] = decay * averages[name] + (1 - decay) * weights[name]
    for prefix, found in (("after3:", weights), ("ema3:", averages)):
        recorded = [name for name in run.outputs if name.startswith(prefix)]
        assert recorded
        for name in recorded:
            close(run, found[name.removeprefix(prefix)], name, "parameters_after_steps")
