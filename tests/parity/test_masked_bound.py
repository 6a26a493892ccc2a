"""The bound if some variates come from the prior: in both twins, these carry no information."""

import numpy as np
import pytest

from tests.support.engines import make_engine, pictures, plan

BATCH = 4


@pytest.fixture(scope="module", params=["torch", "jax"])
def evaluate(request):
    """Evaluate four pictures with recorded noise, with or without masks for the latent groups."""
    engine = make_engine(request.param, "train.precision='float64'")
    specs = plan().latent_noise(BATCH, prior=True, posterior=True)
    noise = {spec.name: np.random.default_rng(5).normal(size=spec.shape) for spec in specs}

    def run(masks=None):
        given = {} if masks is None else {"masked": True, "masks": masks}
        image = {"image": pictures(0, BATCH)}
        return engine.run("evaluate", image, ema=False, step=0, noise=noise, **given)

    return run


def masks(kept):
    """Masks (Z,) of every group, from a function of the group's number."""
    return [np.full(block.variates, float(kept(g)), np.float32) for g, block in enumerate(plan().groups)]


def test_masks_of_ones_change_nothing(evaluate):
    whole, masked = evaluate(), evaluate(masks(lambda _: True))
    for name, values in whole.items():
        np.testing.assert_allclose(masked[name], values, rtol=1e-12)


def test_variates_from_the_prior_are_left_out_of_both_terms(evaluate):
    whole, masked = evaluate(), evaluate(masks(lambda group: group == 0))
    for name in ("kl", "log_ratio"):
        np.testing.assert_allclose(masked[name][:, 0], whole[name][:, 0], rtol=1e-12)
        assert (masked[name][:, 1:] == 0).all()
        assert (whole[name][:, 1:] != 0).any()
    assert (masked["reconstruction"] != whole["reconstruction"]).any()


def test_with_nothing_from_the_posterior_the_bound_is_the_likelihood_of_samples(evaluate):
    masked = evaluate(masks(lambda _: False))
    assert (masked["kl"] == 0).all()
    assert (masked["log_ratio"] == 0).all()
