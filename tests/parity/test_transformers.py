"""The twins' masked token transformers compute the same numbers and treat conditions as promised."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from dioscuri.families.maskgit.model_options import Transformer
from tests.parity.option_cases import enumerated
from tests.parity.transformer_cases import CASES, SMALL, critic_input, make
from tests.support.transformers import TWINS, Jax, Torch


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


SLOW = [pytest.param(case, marks=pytest.mark.slow) for case in ("uvit", "lucidrains", "maskgen")]
SLOW_MEISSONIC = pytest.param("meissonic", marks=pytest.mark.slow)


@cache
def made(kind, case):
    """A float64 twin, compiled once, with its ids, condition and noise."""
    plan, weights, *arguments = make(case)
    return kind(plan, weights, "float64"), *arguments


def cotangents(plan, seed=0):
    rng = np.random.default_rng(seed)
    return {"logits": rng.normal(size=(2, plan.n_tokens, plan.outputs))}


def assert_equal(actual, expected, relative, floor=0.0):
    """Every array within a fraction of its largest value, or of `floor` if that is larger."""
    assert set(actual) == set(expected)
    for name, array in expected.items():
        limit = relative * max(np.abs(array).max(initial=0), floor)
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=limit, err_msg=name)


def largest(arrays):
    return max(np.abs(array).max() for array in arrays.values())


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_equal_in_float64(case):
    plan, _, ids, condition, noise = make(case)
    actual, expected = (
        twin.both(ids, condition, cotangents(plan), noise)
        for twin in (made(Jax, case)[0], made(Torch, case)[0])
    )
    assert_equal(actual[0], expected[0], 1e-9)
    # Gradients of key biases are zero in exact arithmetic.
    assert_equal(actual[1], expected[1], 1e-9, floor=1e-3 * largest(expected[1]))
    assert all(np.isfinite(array).all() for array in expected[1].values())


@pytest.mark.parametrize("case", [case for case, options in CASES.items() if "critic" in options])
def test_critics_are_equal_in_float64(case):
    plan, weights, ids, condition, _ = make(case)
    ids, condition = critic_input(plan, ids, condition)
    weight = np.random.default_rng(1).normal(size=ids.shape)
    jax_grads, torch_grads = (
        twin(plan, weights, "float64").criticise(ids, condition, weight) for twin in (Jax, Torch)
    )
    assert_equal(jax_grads, torch_grads, 1e-9, floor=1e-3 * largest(torch_grads))
    trained = [name for name, grad in torch_grads.items() if np.abs(grad).max() > 0]
    assert any(name.startswith("critic.") for name in trained)
    if plan.options.critic == "token":
        assert all(name.startswith("critic.") for name in trained)


@pytest.mark.parametrize("case", ["class", "google", "halton", *SLOW, SLOW_MEISSONIC])
@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-4), ("bfloat16", 1e-2)])
def test_outputs_are_equal_in_other_precisions(case, precision, relative):
    plan, weights, ids, condition, _ = make(case)
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    actual, expected = (twin(plan, weights, precision).forward(ids, condition) for twin in (Jax, Torch))
    if precision == "float32":
        assert_equal(actual, expected, relative)
        return
    exact = Torch(plan, weights, "float64").forward(ids, condition)["logits"]
    for logits in (actual["logits"], expected["logits"]):
        assert logits.dtype == np.float32
        # The mean of two layers' rounding errors; single ones reach several units in the last place.
        assert np.abs(logits - exact).mean() < relative * np.abs(exact).max()


@pytest.mark.parametrize("case", ["text", "uvit", "halton", "lucidrains", "maskgen", "meissonic"])
def test_a_prepared_condition_changes_nothing(kind, case):
    twin, ids, condition, _ = made(kind, case)
    plain, prepared = (twin.forward(ids, condition, prepared=prepared) for prepared in (False, True))
    assert_equal(prepared, plain, 1e-12)


@pytest.mark.parametrize("case", ["class", "halton", "uvitbert", "meissonic", *SLOW])
def test_recomputed_and_scanned_layers_change_nothing(case):
    plan, weights, ids, condition, noise = make(case)
    expected = Torch(plan, weights, "float64").both(ids, condition, cotangents(plan), noise)
    scanned = Jax(plan, weights, "float64", checkpoint=True)
    scanned.scan = True
    for twin in (Torch(plan, weights, "float64", checkpoint=True), scanned):
        outputs, grads = twin.both(ids, condition, cotangents(plan), noise)
        assert_equal(outputs, expected[0], 1e-9)
        assert_equal(grads, expected[1], 1e-9, floor=1e-3 * largest(expected[1]))


@pytest.mark.parametrize("case", ["text", "uvit", "lucidrains"])
def test_padding_of_texts_is_not_seen(kind, case):
    twin, ids, condition, _ = made(kind, case)
    before = twin.forward(ids, condition)["logits"]
    changed = {**condition, "text": condition["text"].copy()}
    changed["text"][1, 2:] = 9.0
    np.testing.assert_array_equal(twin.forward(ids, changed)["logits"], before)
    changed["text"][1, 1] = 9.0
    assert np.abs(twin.forward(ids, changed)["logits"] - before)[1].max() > 1e-3


@pytest.mark.parametrize("case", ["text", "uvit", "lucidrains"])
def test_a_text_without_real_tokens_tells_nothing(kind, case):
    twin, ids, condition, _ = made(kind, case)
    condition = {**condition, "text_mask": np.zeros_like(condition["text_mask"])}
    if "low_res" in condition:
        condition["low_res"] = condition["low_res"][:, :0]
    before = twin.forward(ids, condition)["logits"]
    other = {**condition, "text": condition["text"][:, ::-1] * 2}
    np.testing.assert_array_equal(twin.forward(ids, other)["logits"], before)
    assert np.isfinite(before).all()


@pytest.mark.parametrize("case", ["class", "google", "halton", "imagebert", "uvitbert"])
def test_no_label_is_the_null_label(kind, case):
    twin, ids, condition, _ = made(kind, case)
    null = twin.forward(ids, {**condition, "label": np.full(2, twin.plan.null_label)})["logits"]
    without = {name: array for name, array in condition.items() if name != "label"}
    np.testing.assert_array_equal(twin.forward(ids, without)["logits"], null)
    first = twin.forward(ids, {**condition, "label": np.zeros(2, np.int64)})["logits"]
    assert np.abs(first - null).max() > 1e-3


def test_dropped_text_is_zero_after_its_projection(kind):
    twin, ids, condition, _ = made(kind, "text")
    dropped = twin.forward(ids, {**condition, "text_keep": np.array([0.0, 1.0])})["logits"]
    whole = twin.forward(ids, condition)["logits"]
    np.testing.assert_allclose(dropped[1], whole[1], rtol=1e-12)
    assert np.abs(dropped[0] - whole[0]).max() > 1e-3


def test_dropout_needs_noise_and_keeps_the_mean(kind):
    twin, ids, condition, noise = made(kind, "class")
    plan = twin.plan
    still = replace(plan, options=replace(plan.options, hidden_dropout=0.0, attention_dropout=0.0))
    expected = kind(still, twin.weights, "float64").forward(ids, condition, noise)
    assert_equal(twin.forward(ids, condition), expected, 1e-12)
    embed = twin.forward(ids, {"label": condition["label"]}, noise)["hs_embed"]
    whole = twin.forward(ids, {"label": condition["label"]})["hs_embed"]
    kept = noise["dropout.embed"] >= plan.options.hidden_dropout
    np.testing.assert_allclose(embed, np.where(kept, whole / 0.8, 0), rtol=1e-12)


def test_every_value_of_every_option_is_in_a_case():
    cases = [Transformer(**{**SMALL, **options}) for options in CASES.values()]
    for name, values in enumerated(Transformer).items():
        assert {getattr(options, name) for options in cases} == set(values), name
