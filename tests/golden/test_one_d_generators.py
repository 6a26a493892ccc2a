"""Both twins reproduce the generators of 1-D tokens: passes, masks, loss, gradients, and what they sample."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import schedules
from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.models import maskgen as jax_maskgen
from jax_impl.objectives import masked_tokens as jax_losses
from jax_impl.objectives import masking as jax_masking
from tests.golden.recorded import cases, tagged_cases
from tests.golden.recorded_one_d import (
    IMAGEBERT,
    KINDS,
    MASKGEN,
    TABLES,
    UVITBERT,
    check_gradients,
    condition_of,
    masking_of,
    null_of,
    opened,
    sampling_of,
    without,
)
from tests.golden.recorded_tokens import cross_entropy
from tests.golden.test_maskgit_samplers import all_masked, gumbel
from tests.support.samplers import sample
from tests.support.transformers import TWINS
from torch_impl.models import maskgen as torch_maskgen
from torch_impl.objectives import masked_tokens as torch_losses
from torch_impl.objectives import masking as torch_masking

__all__ = ["KINDS"]
PARTS = {
    "torch": (torch.from_numpy, torch_masking, torch_losses, torch_maskgen),
    "jax": (jnp.asarray, jax_masking, jax_losses, jax_maskgen),
}


@pytest.fixture(params=TWINS)
def twin(request):
    return request.param


def check_training(run, twin, condition):
    """Masks, logits, loss, accuracy and gradients of a training step with this condition."""
    to_twin, masking, losses, _ = PARTS[twin]
    options, inputs = masking_of(run), run.inputs
    noise = {"time": to_twin(inputs["mask_timesteps"]), "order": to_twin(inputs["mask_perm_uniform"])}
    tokens = to_twin(inputs["tokens"])
    masked = masking.mask_tokens(tokens, noise, options, run.plan.codebook_size, run.plan.mask_id)
    np.testing.assert_array_equal(np.asarray(masked.mask), run.outputs["mask"])
    ids = np.asarray(masked.inputs)
    if "masked_tokens" in run.outputs:
        np.testing.assert_array_equal(ids, run.outputs["masked_tokens"])
    logits = run.twin.forward(ids, condition)["logits"]
    run.close(logits, "logits")
    terms = losses.token_terms(to_twin(logits), masked, options)
    loss, _ = losses.training_loss(terms, options)
    run.close(loss, "loss")
    run.close((np.asarray(terms.correct) / np.asarray(terms.masked)).mean(), "correct_tokens")
    weights = np.asarray(masked.weights, np.float64)
    _, cotangent = cross_entropy(logits, inputs["tokens"], weights / weights.sum(), options.label_smoothing)
    check_gradients(run, run.twin.pull_back(ids, condition, {"logits": cotangent}))


@pytest.mark.parametrize("case", cases(IMAGEBERT, UVITBERT))
def test_class_conditional_generators(twin, case):
    run = opened(TWINS[twin], case)
    to_twin, masking, *_ = PARTS[twin]
    condition, null, ids = condition_of(run), null_of(run), case.outputs["masked_tokens"]
    run.close(run.twin.forward(ids, condition)["logits"], "logits_cond")
    run.close(run.twin.forward(ids, without(run, condition))["logits"], "logits_uncond")
    dropped = masking.drop_condition(
        {"label": to_twin(condition["label"])},
        {"label": to_twin(null["label"])},
        to_twin(case.inputs["cond_drop_uniform"]),
        case.settings["cond_drop_prob"],
    )
    check_training(run, twin, {"label": np.asarray(dropped["label"])})


@pytest.mark.parametrize("case", cases(MASKGEN))
def test_maskgen(twin, case):
    run = opened(TWINS[twin], case)
    to_twin, masking, _, maskgen = PARTS[twin]
    condition = condition_of(run)
    run.close(run.twin.forward(case.inputs["eval_ids"], condition)["logits"], "eval_logits")
    given, null = ({name: to_twin(rows[name]) for name in ("text", "pooled")}
                   for rows in (condition, null_of(run)))  # fmt: skip
    uniform = to_twin(case.inputs["text_drop_uniform"].reshape(-1))
    dropped = masking.drop_condition(given, null, uniform, case.settings["text_drop_prob"])
    dropped = {name: np.asarray(value) for name, value in dropped.items()}
    run.close(dropped["text"], "condition_dropped")
    run.close(dropped["pooled"][:, None], "condition_pooled_dropped")
    if "micro_sincos" in run.outputs:
        width = run.plan.options.micro_cond_encode_dim
        run.close(maskgen.encoded_score(to_twin(case.inputs["aesthetic_score"]), width), "micro_sincos")
    check_training(run, twin, condition | dropped)


@pytest.mark.parametrize(("case", "tag"), tagged_cases("(.+)_mask_len", IMAGEBERT, UVITBERT, MASKGEN))
def test_samplers(twin, case, tag):
    """Inputs, choices, guidance, counts and result of `generate`."""
    run = opened(TWINS[twin], case)
    options = Sampling(**sampling_of(run, case.settings["generate"][tag]))
    condition = condition_of(run, case.settings.get("sample_aesthetic_score_used"))
    noise = {"tokens": gumbel(uniform=run.inputs[f"{tag}_gumbel_uniform_logits"])}
    if options.prob_sorting:
        noise["confidence"] = gumbel(uniform=run.inputs[f"{tag}_gumbel_uniform_conf"])
    actual = sample(run.twin, all_masked(run), noise, options, condition, null_of(run))
    np.testing.assert_array_equal(actual.inputs, run.outputs[f"{tag}_model_ids"])
    np.testing.assert_array_equal(actual.drawn, run.outputs[f"{tag}_sampled"])
    np.testing.assert_array_equal(actual.tokens, run.outputs[f"{tag}_tokens"])
    masked = actual.inputs[1:] == run.plan.mask_id
    np.testing.assert_array_equal(masked, run.outputs[f"{tag}_masking"][:-1])
    steps = make_steps(options, run.plan.n_tokens)
    unknown = (actual.inputs == run.plan.mask_id).sum(-1)[:, 0]
    counts = np.maximum(np.minimum(unknown - 1, steps.masked[:, run.plan.n_tokens]), 1)
    np.testing.assert_array_equal(counts, run.outputs[f"{tag}_mask_len"])
    adds = case.settings["generate"][tag]["guidance_decay"] != "power-cosine"
    run.close(steps.guidance - adds, f"{tag}_cfg")
    check_confidences(run, tag, options, noise, condition)


def check_confidences(run, tag, options, noise, condition):
    """Guided logits of the first and the last step, and every step's confidences."""
    steps, outputs = make_steps(options, run.plan.n_tokens), run.outputs
    last = options.steps - 1
    for k, ids in enumerate(outputs[f"{tag}_model_ids"]):
        given, null = (run.twin.forward(ids, rows)["logits"] for rows in (condition, without(run, condition)))
        logits = (null + steps.guidance[k] * (given - null)) * steps.logit_scale[k]
        for step, name in ((0, "first"), (last, "last")):
            if k == step:
                run.close(logits, f"{tag}_logits_{name}")
        sampled = outputs[f"{tag}_sampled"][k][..., None]
        confidence = np.take_along_axis(logits, sampled, -1)[..., 0]
        if options.prob_sorting:
            confidence = confidence + steps.temperature[k] * noise["confidence"][k]
        confidence = np.where(ids == run.plan.mask_id, confidence, np.inf)
        run.close(confidence, f"{tag}_conf", outputs[f"{tag}_conf"][k])


@pytest.mark.parametrize("case", cases(TABLES))
def test_schedules(twin, case):
    """Shares of masked tokens in training, and numbers of masked tokens in sampling."""
    to_twin, masking, *_ = PARTS[twin]
    for name in case.of_prefix("ratio_"):
        run = masking.mask_ratio(name, to_twin(case.inputs["progress"]))
        case.close(run, f"ratio_{name}")
        case.close(schedules.mask_ratio(name, case.inputs["progress"]), f"ratio_{name}")
    for name in (*case.of_prefix("floor_f64_"), *case.of_prefix("floor_f32_")):
        length, steps = (int(word[1:]) for word in name.split("_"))
        options = Sampling(sampler="logits", sampling_schedule="arccos", steps=steps)
        masked = make_steps(options, length).masked[:, length]
        np.testing.assert_array_equal(masked, case.outputs[f"floor_f64_{name}"])
        np.testing.assert_array_equal(masked, case.outputs[f"floor_f32_{name}"])
