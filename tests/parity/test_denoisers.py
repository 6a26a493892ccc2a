"""SUNDAE's networks compute the same numbers in both twins, and read all that they should."""

from dataclasses import replace

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.sundae.plan import initial_parameters, make_plan, parameter_table
from tests.parity.denoiser_cases import BATCH, CASES, CODES, SMALL, make
from tests.parity.option_cases import enumerated
from tests.parity.test_transformers import assert_equal, largest
from tests.support.denoisers import Jax, Torch


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_are_equal_in_float64(case):
    plan, weights, ids, condition, _ = make(case)
    cotangents = {"logits": np.random.default_rng(0).normal(size=(BATCH, plan.n_tokens, CODES))}
    found, expected = (
        twin(plan, weights, "float64").both(ids, condition, cotangents) for twin in (Jax, Torch)
    )
    assert_equal(found[0], expected[0], 1e-9)
    assert_equal(found[1], expected[1], 1e-9, floor=1e-3 * largest(expected[1]))


@pytest.mark.parametrize(("precision", "relative"), [("float32", 1e-4), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("twin", [Torch, Jax])
def test_smaller_precisions_stay_near(twin, precision, relative):
    plan, _, ids, condition, _ = make("hourglass")
    weights = initial_parameters(plan, 1)
    exact = Torch(plan, weights, "float64").forward(ids, condition)["logits"]
    near = twin(plan, weights, precision).forward(ids, condition)["logits"]
    assert near.dtype == np.float32
    assert np.abs(near - exact).max() <= relative * np.abs(exact).max()


def test_saving_memory_changes_nothing():
    plan, weights, ids, condition, _ = make("hourglass")
    cotangents = {"logits": np.ones((BATCH, plan.n_tokens, CODES))}
    plain = Torch(plan, weights, "float64").both(ids, condition, cotangents)
    saved = Torch(plan, weights, "float64", checkpoint=True).both(ids, condition, cotangents)
    scanned = Jax(plan, weights, "float64", checkpoint=True)
    scanned.scan = True
    for found in (saved, scanned.both(ids, condition, cotangents)):
        assert_equal(found[0], plain[0], 1e-9)
        assert_equal(found[1], plain[1], 1e-9, floor=1e-3 * largest(plain[1]))


def test_every_token_and_class_reaches_every_output():
    plan, weights, ids, condition, _ = make("hourglass")
    twin = Torch(plan, weights, "float64")
    before = twin.forward(ids, condition)["logits"]
    changed = ids.copy()
    changed[:, 0] = (changed[:, 0] + 1) % CODES
    for after in (
        twin.forward(changed, condition)["logits"],
        twin.forward(ids, {"label": np.array([1, 1])})["logits"],
    ):
        assert (np.abs(after - before).max(-1) > 0).all()


def test_old_positions_are_another_function_of_the_same_weights():
    plan, weights, ids, condition, _ = make("legacy")
    new = make_plan(replace(plan.options, legacy_positions=False), plan.grid, CODES)
    assert parameter_table(new) == parameter_table(plan)
    old = Torch(plan, weights, "float64").forward(ids, condition)["logits"]
    assert np.abs(Torch(new, weights, "float64").forward(ids, condition)["logits"] - old).max() > 1e-3


def test_first_values_and_decay():
    plan = make("hourglass")[0]
    table, values = parameter_table(plan), initial_parameters(plan, 3)
    assert set(values) == set(table)
    assert values["transformer.norm_out.weight"].tolist() == [1] * 12
    assert 0.8 < values["token_emb.weight"].std() < 1.2
    limit = np.sqrt(1 / (12 * 4))
    assert 0.9 * limit < np.abs(values["transformer.downsample.proj.weight"]).max() <= limit
    assert {name for name, parameter in table.items() if parameter.decays} == {
        name for name in table if name.endswith("weight") and "norm" not in name and "emb" not in name
    }


@pytest.mark.parametrize(
    ("options", "grid", "message"),
    [
        ({"depth": (1, 1, 1), "shorten_factor": 4}, 7, "needs a side divisible by 2"),
        ({"depth": (1, (1, 1, 1), 1), "shorten_factor": 4}, 6, "has 3x3 there"),
        ({"depth": (1, (1, 1, 1), 1), "shorten_factor": (4,)}, 8, "1 factors for the 2 levels"),
        ({"depth": 2, "shorten_factor": 4}, 8, "1 factors for the 0 levels"),
        ({"depth": (1, 1, 1), "shorten_factor": 8}, 8, "8 is not a square number"),
        ({"depth": (1, 1, 1), "shorten_factor": 4}, 0, "are empty"),
        ({"depth": 1, "dim_head": 6}, 4, "dim_head 6 must be divisible by 4"),
        ({"depth": 1, "rotary_emb_dim": 5}, 4, "rotary_emb_dim 5 and dim_head 8 must be even"),
        (
            {"depth": 1, "rotary_emb_dim": 6},
            4,
            "rotates 12 channels on two axes, but there are 8: give at most 4",
        ),
        (
            {"depth": 1, "rotary_emb_dim": 4, "use_rotary": False},
            4,
            "is for an hourglass with use_rotary=True",
        ),
        ({"depth": 1, "rotary_emb_dim": 4, "architecture": "transformer"}, 4, "is for an hourglass"),
        ({"depth": 1, "architecture": "transformer"}, 4, "must be at least 32 for text"),
        ({"depth": (1, 1, 1), "architecture": "transformer", "dim_head": 32}, 4, "must be one number"),
    ],
)
def test_what_does_not_fit_is_named(options, grid, message):
    with pytest.raises(UserError, match=message):
        make_plan(Denoiser(**{**SMALL, **options}), grid, CODES)


def test_every_value_of_every_option_is_in_a_case():
    cases = [Denoiser(**{**SMALL, **options}) for options in CASES.values()]
    for name, values in enumerated(Denoiser).items():
        assert {getattr(options, name) for options in cases} == set(values), name
