"""The twins' discriminators, adversarial objective and perceptual distance compute the same."""

from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.vqgan.discriminators import make_plan, parameter_table
from dioscuri.families.vqgan.lpips import weight_shapes
from dioscuri.families.vqgan.options import Discriminator, Loss
from dioscuri.plans.parameters import initial_values
from jax_impl.objectives import vqgan as jax_vqgan
from tests.support.gan import TWINS
from torch_impl.objectives import vqgan as torch_vqgan

# Values relative to a tensor's largest one; gradients as relative L2.
WITHIN = {"float64": (1e-9, 1e-9), "float32": (1e-4, 1e-4)}
SIDE = 16

NETWORKS = {
    "batch": Discriminator(type="patchgan", num_layers=2, ndf=4),
    "instance": Discriminator(type="patchgan", num_layers=2, ndf=4, norm="instance"),
    "plain": Discriminator(type="patchgan", num_layers=1, ndf=4, norm="none"),
    "blurred": Discriminator(type="stylegan", channel_multiplier=1 / 256),
    "averaged": Discriminator(type="stylegan", channel_multiplier=1 / 256, blur=False),
    "staged": Discriminator(type="vqgan+", num_layers=2, ndf=32),
    "of five taps": Discriminator(type="vqgan+", num_layers=1, ndf=32, blur_taps=5),
    "of three taps": Discriminator(
        type="vqgan+", num_layers=1, ndf=32, blur_taps=3, legacy_blur_padding=True
    ),
    "staged averages": Discriminator(type="vqgan+", num_layers=1, ndf=32, blur=False),
}
LOSSES = {
    "hinge": Loss(lecam_weight=0.3),
    "vanilla": Loss(disc_loss="vanilla", reconstruction="l2", r1_cost=0.7),
    "non_saturating": Loss(
        disc_loss="non_saturating", adaptive_disc_weight=False, disc_weight=0.1, gradient_penalty=0.5
    ),
}


def random(*shape, seed=0):
    return np.random.default_rng((7, seed, *shape)).normal(size=shape)


def weights_of(plan):
    """Random values, none of them zero, about as large as the initial ones."""
    values = initial_values(parameter_table(plan, ""), 3)
    return {
        name: value + 0.1 * np.random.default_rng((5, index)).normal(size=value.shape)
        for index, (name, value) in enumerate(values.items())
    }


def assert_agree(ours, theirs, precision):
    values, gradients = WITHIN[precision]
    assert set(ours) == set(theirs)
    for name, expected in theirs.items():
        actual = ours[name]
        assert actual.dtype == expected.dtype, name
        if name.startswith("grad/"):
            # A norm with one channel per group makes the gradients of the biases before it zero.
            assert np.linalg.norm(actual - expected) <= gradients * (np.linalg.norm(expected) + 1e-3), name
        else:
            np.testing.assert_allclose(
                actual, expected, rtol=0, atol=values * np.abs(expected).max(), err_msg=name
            )


def both(network, loss, precision, use, channels=3):
    plan = make_plan(NETWORKS[network], SIDE, channels)
    return [use(kind(plan, LOSSES[loss], weights_of(plan), precision)) for kind in TWINS.values()]


def generator(twin):
    x, h, kernel = random(2, SIDE, SIDE, 3), random(2, SIDE, SIDE, 4), random(3, 4, 3, 3) / 4
    return twin.generator(x, h, kernel, adversarial=True, pooled=True)


def discriminator(twin):
    return twin.discriminator(random(2, SIDE, SIDE, 3), random(2, SIDE, SIDE, 3, seed=1))


@pytest.mark.parametrize("precision", WITHIN)
@pytest.mark.parametrize(
    ("network", "loss"), [("batch", "hinge"), ("batch", "vanilla"), ("blurred", "non_saturating")]
)
def test_generator_agrees(network, loss, precision):
    assert_agree(*both(network, loss, precision, generator), precision)


@pytest.mark.parametrize(
    ("network", "loss"),
    [*zip(NETWORKS, cycle(LOSSES), strict=False), ("batch", "vanilla"), ("blurred", "non_saturating")],
)
def test_discriminator_agrees(network, loss):
    assert_agree(*both(network, loss, "float64", discriminator), "float64")


@pytest.mark.parametrize("network", ["batch", "averaged"])
def test_discriminator_agrees_in_float32(network):
    assert_agree(*both(network, "hinge", "float32", discriminator), "float32")


@pytest.mark.parametrize("kind", TWINS)
def test_gradient_of_the_generator_is_that_of_its_terms(kind):
    """The gradient attached to the loss is its derivative: compared with finite differences."""
    plan = make_plan(NETWORKS["plain"], SIDE, 3)
    twin = TWINS[kind](plan, LOSSES["non_saturating"], weights_of(plan), "float64")
    x, h, kernel = random(2, SIDE, SIDE, 3), random(2, SIDE, SIDE, 4), random(3, 4, 3, 3) / 4
    direction, step = random(3, 4, 3, 3, seed=2), 1e-6
    losses = [
        twin.generator(x, h, kernel + sign * step * direction, adversarial=True)["loss"] for sign in (1, -1)
    ]
    slope = np.sum(twin.generator(x, h, kernel, adversarial=True)["grad/kernel"] * direction)
    np.testing.assert_allclose((losses[0] - losses[1]) / (2 * step), slope, rtol=1e-6)


@pytest.mark.parametrize(("channels", "precision"), [(3, "float64"), (1, "float32")])
def test_lpips_agrees(channels, precision):
    weights = {
        name: random(*shape, seed=1) / np.sqrt(np.prod(shape[1:]) + 1)
        for name, shape in weight_shapes().items()
    }
    # Every factor is positive, as in the published file.
    weights |= {name: np.abs(array) for name, array in weights.items() if name.startswith("lin")}
    first, second = (random(2, SIDE, SIDE, channels, seed=seed) for seed in (0, 1))
    actual = [
        kind(make_plan(NETWORKS["plain"], SIDE, 3), Loss(), {}, precision).lpips(first, second, weights)
        for kind in TWINS.values()
    ]
    assert_agree(*actual, precision)
    assert (actual[0]["distance"] > 0).all()
    assert np.isfinite(actual[0]["grad/second"]).all()


def test_cross_entropies_of_codes_are_those_of_the_definition():
    logits, codes = random(3, 2, 4, 5), np.random.default_rng(1).integers(0, 5, (3, 2, 4))
    chosen = np.take_along_axis(logits, codes[..., None], -1)[..., 0]
    expected = (np.log(np.exp(logits).sum(-1)) - chosen).mean((1, 2))
    torch_losses = torch_vqgan.code_losses(torch.from_numpy(logits), torch.from_numpy(codes)).numpy()
    with jax.enable_x64(True):
        jax_losses = np.asarray(jax_vqgan.code_losses(jnp.asarray(logits), jnp.asarray(codes)))
    np.testing.assert_allclose(torch_losses, expected, rtol=1e-12)
    np.testing.assert_allclose(jax_losses, expected, rtol=1e-12)
