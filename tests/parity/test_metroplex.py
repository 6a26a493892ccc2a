"""Metroplex computes the same in both twins, in every branch."""

import numpy as np
import pytest

from tests.parity.metroplex_cases import CASES, enumerated, make
from tests.parity.test_model import SCALARS, WITHIN, assert_agree, forward, generate, masked
from tests.support.models import TWINS


def both(name, precision, use, *overrides, **options):
    """`use(twin, pictures, noise, masks)` of both twins."""
    chosen, _, weights, *given = make(name, *overrides)
    return [use(kind(chosen, weights, precision, **options), *given) for kind in TWINS.values()]


def without_zeros(results):
    """Results without gradients that are zero in exact arithmetic, such as those of key biases."""
    names = [
        name
        for name in results[0]
        if name.startswith("grad/") and all(np.abs(result[name]).max() < 1e-10 for result in results)
    ]
    return [{name: value for name, value in result.items() if name not in names} for result in results]


def test_every_value_of_every_model_option_is_in_a_case():
    chosen = [make(name)[0].model for name in CASES]
    assert not {pair for pair in enumerated() if not any(getattr(m, pair[0]) == pair[1] for m in chosen)}


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_agree_in_float64(name):
    assert_agree(*without_zeros(both(name, "float64", forward)), WITHIN["float64"])


@pytest.mark.parametrize("name", ["patches", "attention", "sound", "clip"])
def test_forward_and_gradients_agree_in_float32(name):
    assert_agree(*both(name, "float32", forward), WITHIN["float32"])


@pytest.mark.parametrize("name", ["patches", "attention"])
def test_loss_agrees_in_bfloat16(name):
    ours, theirs = both(name, "bfloat16", masked)
    assert {value.dtype for value in ours.values()} == {np.dtype(np.float32)}
    for key in ("loss", "reconstruction", "kl"):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=0, atol=1e-2 * np.abs(theirs[key]).max())


def test_generation_agrees():
    assert_agree(*both("attention_in_prior_convolutions", "float64", generate), WITHIN["float64"])


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("name", ["pixels", "attention"])
def test_recomputing_blocks_meets_the_same_noise(twin, name):
    chosen, _, weights, *given = make(name)
    plain, recomputed = (
        forward(TWINS[twin](chosen, weights, "float64", checkpoint=checkpoint), *given)
        for checkpoint in (False, True)
    )
    assert_agree(plain, recomputed, (1e-12, 1e-11))


@pytest.mark.parametrize("name", ["patches", "absolute_errors", "binary"])
@pytest.mark.parametrize("truncates", [False, True])
def test_pictures_agree(name, truncates):
    chosen, plan, weights, _, noise, _ = make(name, f"model.truncate_pixels={truncates}")
    shape = (2, plan.resolution, plan.resolution, plan.head_channels)
    output = np.random.default_rng(0).normal(0, 2, shape).astype(np.float32)
    ours, theirs = (kind(chosen, weights).read(output, noise, "sample", 0.8) for kind in TWINS.values())
    np.testing.assert_allclose(ours[0], theirs[0], atol=1e-4)
    assert np.abs(ours[1].astype(int) - theirs[1]).max() <= 1
    if truncates and name == "patches":
        np.testing.assert_array_equal(ours[1], np.floor(np.clip(ours[0] * 127.5 + 127.5, 0, 255)))


@pytest.mark.parametrize("twin", TWINS)
def test_given_latents_lead_to_the_output_they_came_from(twin):
    chosen, plan, weights, pictures, noise, _ = make("patches")
    made = TWINS[twin](chosen, weights, "float64")
    drawn = made.forward(made.normalise(pictures), noise, SCALARS, gradients=False)
    latents = {name: value for name, value in drawn.items() if name.startswith("z.")}
    decoded = made.generate({}, [1.0] * len(plan.groups), latents)
    np.testing.assert_allclose(decoded["output"], drawn["output"], rtol=1e-9, atol=1e-9)
