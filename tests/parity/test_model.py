"""The twins' models, objectives and samplers compute the same in every branch and precision."""

import jax
import numpy as np
import pytest
import torch

from dioscuri.families.hierarchical_vae.plan import make_plan
from tests.parity.model_cases import CASES, make
from tests.support.models import TWINS
from torch_impl.layers.convolution import convolution

SCALARS = {"beta": 0.7, "gamma": 1.0}
# Output, aux and loss relative to a tensor's largest value; gradients as relative L2. A mixture's gradients
# are compared within 1e-3 in float32: the original's differ from float64 by up to 4e-4 of the largest value.
WITHIN = {"float64": (1e-9, 1e-9), "float32": (1e-4, 1e-3)}


def assert_agree(ours, theirs, within):
    assert set(ours) == set(theirs)
    values, gradients = within
    # A key bias has no gradient except rounding errors.
    norms = [np.linalg.norm(array) for name, array in theirs.items() if name.startswith("grad/")]
    floor = 1e-6 * max(norms, default=0)
    for name, expected in theirs.items():
        actual = ours[name]
        assert actual.dtype == expected.dtype, name
        if name.startswith("grad/"):
            assert np.linalg.norm(actual - expected) <= gradients * max(np.linalg.norm(expected), floor), name
        else:
            np.testing.assert_allclose(
                actual, expected, rtol=0, atol=values * np.abs(expected).max(), err_msg=name
            )


def both(name, precision, use, *overrides, **options):
    """`use(twin, pictures, noise, masks)` of both twins."""
    chosen, _, weights, *given = make(name, *overrides)
    return [use(kind(chosen, weights, precision, **options), *given) for kind in TWINS.values()]


def forward(twin, pictures, noise, masks):
    return twin.forward(twin.normalise(pictures), noise, SCALARS)


def masked(twin, pictures, noise, masks):
    return twin.forward(twin.normalise(pictures), noise, SCALARS, masks, gradients=False)


def generate(twin, pictures, noise, masks):
    temperatures = np.linspace(0.5, 1, len(twin.plan.down))
    prior = {name: value for name, value in noise.items() if name.startswith("prior.")}
    return twin.generate(prior, temperatures)


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_agree_in_float64(name):
    assert_agree(*both(name, "float64", forward), WITHIN["float64"])


@pytest.mark.parametrize("name", ["rgb", "bernoulli_stride_4"])
def test_forward_and_gradients_agree_in_float32(name):
    values, gradients = WITHIN["float32"]
    tight = 1e-4 if name.startswith("bernoulli") else gradients
    assert_agree(*both(name, "float32", forward), (values, tight))


def test_forward_and_loss_agree_in_bfloat16():
    ours, theirs = both("rgb", "bfloat16", masked)
    assert {value.dtype for value in ours.values()} == {np.dtype(np.float32)}
    for name in ("loss", "reconstruction", "kl"):
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-2 * np.abs(theirs[name]).max())
    exact = both("rgb", "float64", masked)[0]
    np.testing.assert_allclose(ours["loss"], exact["loss"], rtol=1e-2)
    assert (ours["output"] != exact["output"].astype(np.float32)).mean() > 0.9


@pytest.mark.parametrize("name", ["grey", "logstd_residual_exact_bins"])
def test_masked_pass_agrees(name):
    ours, theirs = both(name, "float64", masked)
    assert_agree(ours, theirs, WITHIN["float64"])
    group = ours["divergence.0"]
    np.testing.assert_allclose(ours["kl"][:, 0], group[..., 1::2].sum((1, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("name", ["rgb", "logstd_residual_exact_bins"])
def test_generation_agrees(name):
    assert_agree(*both(name, "float64", generate), WITHIN["float64"])


@pytest.mark.parametrize("twin", TWINS)
def test_given_latents_lead_to_the_output_they_came_from(twin):
    chosen, plan, weights, pictures, noise, masks = make("rgb")
    made = TWINS[twin](chosen, weights, "float64")
    for given in (None, masks):
        drawn = made.forward(made.normalise(pictures), noise, SCALARS, given, gradients=False)
        latents = {f"z.{group}": drawn[f"z.{group}"] for group in range(len(plan.down))}
        decoded = made.generate({}, [1.0] * len(plan.down), latents)
        np.testing.assert_allclose(decoded["output"], drawn["output"], rtol=1e-9, atol=1e-9)
    kept = made.generate(noise, [1.0] * len(plan.down), latents, masks)
    for group, mask in enumerate(masks):
        z = kept[f"z.{group}"]
        np.testing.assert_allclose(z[..., mask == 1], latents[f"z.{group}"][..., mask == 1])
        assert np.abs(z - latents[f"z.{group}"])[..., mask == 0].min() >= 0
    cold = made.generate(noise, [0.0] * len(plan.down))
    np.testing.assert_allclose(cold["z.0"], cold["prior_mean.0"])


@pytest.mark.parametrize("twin", TWINS)
def test_recomputing_activations_changes_nothing(twin):
    chosen, _, weights, *given = make("grey")
    plain, recomputed = (
        forward(TWINS[twin](chosen, weights, "float64", checkpoint=checkpoint), *given)
        for checkpoint in (False, True)
    )
    assert_agree(plain, recomputed, (1e-13, 1e-12))


@pytest.mark.parametrize("name", ["rgb", "grey", "two_channels_unscaled_gamma", "logstd_residual_exact_bins",
                                  "bernoulli_stride_4"])  # fmt: skip
@pytest.mark.parametrize("kind", ["sample", "mean"])
def test_pictures_agree(name, kind):
    chosen, plan, weights, _, noise, _ = make(name)
    output = np.random.default_rng(0).normal(
        0, 2, (2, plan.resolution, plan.resolution, plan.output_channels)
    )
    (ours, pictures), (theirs, expected) = (
        made(chosen, weights).read(output.astype(np.float32), noise, kind, 0.8) for made in TWINS.values()
    )
    assert pictures.dtype == expected.dtype == np.uint8
    assert pictures.shape == (2, *plan.image_shape)
    assert np.abs(pictures.astype(int) - expected).max() <= 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert np.unique(pictures).size > 1


@pytest.mark.parametrize("side", range(1, 8))
def test_convolutions_pad_as_xla_does(side):
    """An impulse becomes the kernel, and even kernels reach one position further after it than before."""
    layer = convolution(1, 1, (side,))
    kernel = np.arange(1, side + 1, dtype=np.float32)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(kernel[None, None]))
        layer.bias.zero_()
        impulse = torch.zeros(1, 1, 9)
        impulse[0, 0, 4] = 1
        moved = layer(impulse).numpy()[0, 0]
    expected = np.zeros(9, np.float32)
    before = (side - 1) // 2
    expected[4 - (side - 1 - before) : 5 + before] = kernel[::-1]
    np.testing.assert_array_equal(moved, expected)
    assert jax.lax.padtype_to_pads((9,), (side,), (1,), "SAME") == [(before, side // 2)]


def test_every_case_has_a_plan_of_its_own():
    plans = [make_plan(make(name)[0]) for name in CASES]
    assert {plan.channels for plan in plans} == {1, 2, 3}
    assert {block.unpool_stride for plan in plans for block in plan.down} == {1, 2, 4}
