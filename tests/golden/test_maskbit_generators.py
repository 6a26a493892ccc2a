"""Both twins reproduce MaskBit's generators: groups of bits, masks, passes, loss, gradients, and samples."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri import schedules
from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.transformers import parameter_table
from dioscuri.families.token_models.masking_options import Masking, Sampling
from dioscuri.importers.maskbit_generators import maskbit_sampling, to_maskbit_generator
from jax_impl.layers import bits as jax_bits
from jax_impl.objectives import masked_tokens as jax_losses
from jax_impl.objectives import masking as jax_masking
from tests.golden.recorded import cases, tagged_cases
from tests.golden.recorded_maskbit import (
    BERT,
    KINDS,
    LFQ_BERT,
    TABLES,
    check_gradients,
    flat,
    labels_of,
    masking_of,
    opened,
)
from tests.golden.recorded_tokens import cross_entropy
from tests.support.samplers import sample
from tests.support.tiny_maskgit import tiny
from tests.support.transformers import TWINS
from torch_impl.layers import bits as torch_bits
from torch_impl.objectives import masked_tokens as torch_losses
from torch_impl.objectives import masking as torch_masking

__all__ = ["KINDS"]
PARTS = {
    "torch": (torch.from_numpy, torch_masking, torch_losses, torch_bits),
    "jax": (jnp.asarray, jax_masking, jax_losses, jax_bits),
}


@pytest.fixture(params=TWINS)
def twin(request):
    return request.param


@pytest.mark.parametrize("case", cases(LFQ_BERT, BERT))
def test_training(twin, case):
    """Groups, masks, logits, loss, accuracy and gradients of a training step."""
    run, (to_twin, masking, losses, bits) = opened(TWINS[twin], case), PARTS[twin]
    plan, inputs, settings, options = (
        run.plan,
        run.inputs,
        case.settings,
        masking_of(opened(TWINS[twin], case)),
    )
    groups = bits.split_tokens(to_twin(inputs["ids"]), plan.splits, plan.group_bits)
    np.testing.assert_array_equal(groups, flat(run, "groups"))
    combined = bits.combine_groups(groups, plan.splits, plan.group_bits)
    np.testing.assert_array_equal(combined, run.outputs["combined"])
    noise = {"time": to_twin(inputs["mask_ratio_uniform"]), "order": to_twin(flat(run, "mask_uniform"))}
    masked = masking.mask_tokens(groups, noise, options, plan.codebook_size, plan.mask_id)
    np.testing.assert_array_equal(masked.mask, flat(run, "mask"))
    ids = np.asarray(masked.inputs)
    np.testing.assert_array_equal(ids, flat(run, "masked_groups"))
    dropped = inputs["drop_uniform"] < settings["class_label_dropout"]
    np.testing.assert_array_equal(dropped, run.outputs["drop_label_mask"])
    condition = labels_of(run, dropped)
    logits = run.twin.forward(ids, condition)["logits"]
    run.close(logits.reshape(run.outputs["logits"].shape), "logits")
    terms = losses.token_terms(to_twin(logits), masked, options)
    factor = plan.splits if settings["loss"]["sum_splits"] else 1
    loss, _ = losses.training_loss(terms, options)
    run.close(factor * np.asarray(loss), "loss")
    check_logged(run, logits, np.asarray(groups), np.asarray(masked.mask), factor)
    weights = np.full(ids.shape, factor / ids.size)
    _, cotangent = cross_entropy(logits, np.asarray(groups), weights, options.label_smoothing)
    check_gradients(run, run.twin.pull_back(ids, condition, {"logits": cotangent}))


def check_logged(run, logits, groups, mask, factor):
    """What the original logs: accuracies per token, and the loss of masked groups."""
    right, splits = logits.argmax(-1) == groups, run.plan.splits
    run.close(np.float32(right.mean() ** splits), "correct_tokens")
    run.close(np.float32(right[mask].mean() ** splits), "masked_correct_tokens")
    loss, _ = cross_entropy(logits, groups, mask / mask.sum(), run.case.settings["loss"]["label_smoothing"])
    run.close(np.float32(factor * loss), "masked_token_loss")


@pytest.mark.parametrize("case", cases(LFQ_BERT, BERT))
def test_passes(twin, case):
    """Without a class, and of the bits that the network reads."""
    run, (to_twin, _, _, bits) = opened(TWINS[twin], case), PARTS[twin]
    ids = flat(run, "masked_groups")
    for condition in (labels_of(run, True), {}):
        logits = run.twin.forward(ids, condition)["logits"]
        run.close(logits.reshape(run.outputs["logits"].shape), "logits_all_dropped")
    if "bit_input" in run.outputs:
        kind = torch.float32 if twin == "torch" else jnp.float32
        found = np.asarray(bits.signs(to_twin(run.outputs["masked_groups"]), run.plan.group_bits, kind))
        np.testing.assert_array_equal(found.reshape(run.outputs["bit_input"].shape), run.outputs["bit_input"])


@pytest.mark.parametrize("case", cases(LFQ_BERT, BERT))
def test_every_recorded_weight_has_a_place(case):
    run = opened(TWINS["torch"], case)
    table = parameter_table(run.plan)
    assert {name: array.shape for name, array in run.weights.items()} == {
        name: parameter.shape for name, parameter in table.items()
    }
    back = to_maskbit_generator(run.weights)
    assert back.keys() == case.weights.keys()
    for name, array in case.weights.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)


@pytest.mark.parametrize(("case", "tag"), tagged_cases("(.+)_count", LFQ_BERT, BERT))
def test_samplers(twin, case, tag):
    """Inputs, choices, counts, temperatures, guidance and result of `sample`."""
    run, bits = opened(TWINS[twin], case), PARTS["torch"][-1]
    plan, call = run.plan, case.settings["generate"][tag]
    options = Sampling(**maskbit_sampling(**call), legacy_exhausted=True)
    exponential = run.inputs[f"{tag}_multinomial_exponential"]
    T, B, n, m, K = exponential.shape
    noise = {"tokens": -np.log(exponential).reshape(T, B, n * m, K), "confidence": flat(run, f"{tag}_gumbel")}
    start, null = np.full((B, n * m), plan.mask_id), {"label": np.array([plan.null_label])}
    actual = sample(run.twin, start, noise, options, labels_of(run, False), null)
    np.testing.assert_array_equal(actual.inputs, flat(run, f"{tag}_model_ids"))
    np.testing.assert_array_equal(actual.drawn, flat(run, f"{tag}_sampled"))
    tokens = bits.combine_groups(torch.from_numpy(actual.tokens.astype(np.int64)), m, plan.group_bits)
    np.testing.assert_array_equal(tokens, run.outputs[f"{tag}_tokens"])
    masked = actual.inputs[1:] == plan.mask_id
    np.testing.assert_array_equal(masked, flat(run, f"{tag}_masking")[:-1])
    check_steps(run, tag, call, options, noise)


def check_steps(run, tag, call, options, noise):
    """Counts, guidance and temperatures of the schedule, guided logits, and every step's confidences."""
    steps, outputs, null = make_steps(options, run.plan.n_tokens), run.outputs, labels_of(run, True)
    inputs, sampled = flat(run, f"{tag}_model_ids"), flat(run, f"{tag}_sampled")
    unknown = inputs == run.plan.mask_id
    counts = np.minimum(np.maximum(steps.masked[:, run.plan.n_tokens], 1), unknown[:, 0].sum(1) - 1)
    np.testing.assert_array_equal(counts, outputs[f"{tag}_count"])
    run.close(steps.guidance - 1, f"{tag}_guidance")
    run.close(1 / steps.logit_scale, f"{tag}_softmax_temperature")
    for k, ids in enumerate(inputs):
        given, without = (run.twin.forward(ids, rows)["logits"] for rows in (labels_of(run, False), null))
        logits = without + steps.guidance[k] * (given - without) if call["guidance_scale"] else given
        for step, name in ((0, "first"), (options.steps - 1, "last")):
            if k == step:
                expected = outputs[f"{tag}_logits_{name}"]
                run.close(logits.reshape(expected.shape), f"{tag}_logits_{name}")
        logits = logits * steps.logit_scale[k]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        confidence = np.take_along_axis(log_p, sampled[k][..., None], -1)[..., 0]
        confidence = confidence + steps.temperature[k] * noise["confidence"][k]
        expected = flat(run, f"{tag}_conf")[k]
        run.close(np.where(unknown[k], confidence, np.inf), f"{tag}_conf[{k}]", expected)


@pytest.mark.parametrize("case", cases(TABLES))
def test_tables(twin, case):
    """Mask ratios, groups of bits, masks of training and learning rates."""
    to_twin, masking, _, bits = PARTS[twin]
    for name, expected in case.of_prefix("ratio_").items():
        case.close(masking.mask_ratio(name, to_twin(case.inputs["progress"])), f"ratio_{name}", expected)
        case.close(schedules.mask_ratio(name, case.inputs["progress"]), f"ratio_{name}", expected)
    for name, expected in case.of_prefix("split_").items():
        codes, splits = map(int, name.split("_"))
        group_bits = (codes.bit_length() - 1) // splits
        groups = bits.split_tokens(to_twin(case.inputs["ids"] % codes), splits, group_bits)
        np.testing.assert_array_equal(groups, expected.reshape(len(expected), -1))
        combined = bits.combine_groups(groups, splits, group_bits)
        np.testing.assert_array_equal(combined, case.outputs[f"combine_{name}"])
    settings = case.settings["mask"]
    for name, expected in case.of_prefix("mask_").items():
        time = case.inputs[f"mask_ratio_uniform_{name}"] * np.float32(1 - settings["min_masking_ratio"])
        noise = {"time": time, "order": case.inputs[f"mask_uniform_{name}"].reshape(len(time), -1)}
        options, mask_id = Masking(mask_schedule=name, masking="bernoulli"), settings["mask_token"]
        groups = to_twin(np.zeros(noise["order"].shape, np.int64))
        noise = {key: to_twin(array) for key, array in noise.items()}
        masked = masking.mask_tokens(groups, noise, options, mask_id, mask_id)
        np.testing.assert_array_equal(masked.mask, expected.reshape(len(time), -1))


@pytest.mark.parametrize("case", cases(TABLES))
def test_learning_rate(case):
    """Until the end, after which the original's cosine rises again."""
    values = case.settings["lr"]
    warmup, last = values["num_warmup_steps"], values["num_training_steps"]
    options = replace(
        tiny().optimizer,
        learning_rate_scheme="cosine",
        learning_rate=values["base_lr"],
        min_learning_rate=values["minimum_rate"] * values["base_lr"],
        warmup_steps=warmup,
        decay_start=warmup,
        decay_steps=last - warmup,
    )
    rates = [schedules.learning_rate(step, options) for step in range(min(last + 1, values["steps"]))]
    expected = case.outputs["lr_cosine_with_minimum"][: len(rates)]
    case.close(rates, "lr_cosine_with_minimum", expected)
