"""Both twins reproduce the results of Efficient-VDVAE's programs from imported weights."""

import re
from math import log

import numpy as np
import pytest

from dioscuri.families.latent_models.plan import level_temperatures
from dioscuri.metrics.ssim import ssim
from tests.golden.recorded import cases, tagged_cases
from tests.golden.recorded_vae import KINDS, Recorded
from tests.support.models import TWINS


@pytest.fixture(params=TWINS)
def made(request, case):
    """The recorded numbers and a twin with their weights."""
    recorded = Recorded(case)
    return recorded, TWINS[request.param](recorded.hparams, recorded.weights)


@pytest.mark.parametrize("case", cases(*KINDS))
def test_forward_losses_and_gradients(made):
    recorded, twin = made
    scalars = recorded.scalars(recorded.case.about["fwd_step_n"])
    noise = recorded.latent_noise("fwd", prior=False, posterior=True)
    actual = twin.forward(recorded.picture_of("fwd"), noise, scalars)
    recorded.close(actual["output"], "fwd_logits", recorded.layer("fwd_logits"))
    check_statistics(recorded, actual)
    check_losses(recorded, actual, scalars)
    check_gradients(recorded, actual)


def check_statistics(recorded, actual):
    """Means and scales of the recorded groups, and KL of every group and variate."""
    for group in recorded.groups:
        for ours, theirs in (("posterior", "post"), ("prior", "prior")):
            for statistic, number in (("mean", 0), ("scale", 1)):
                if (name := f"fwd_{theirs}{number}_{group}") in recorded.outputs:
                    expected = recorded.nhwc(recorded.outputs[name])
                    recorded.close(actual[f"{ours}_{statistic}.{group}"], name, expected)
    if "div_stats" in recorded.outputs:
        bits = [actual[f"divergence.{group}"].mean((0, 1, 2)) / log(2) for group in recorded.groups]
        recorded.close(np.stack(bits), "div_stats")


def check_losses(recorded, actual, scalars):
    """The training losses, per value of the picture, and the logged numbers."""
    dims = recorded.plan.image_dims
    reconstruction, kl = actual["reconstruction"].mean() / dims, actual["kl"].mean(0) / dims
    average = kl * dims / [recorded.plan.latent_dims(group) for group in recorded.groups]
    weighted = (actual["loss"] - reconstruction) / scalars["beta"]
    if recorded.is_flax:
        recorded.close(kl, "fwd_kl")
        # In some places, the JAX program converts even these of binarised digits to nats per picture.
        units = [1 / log(2), dims] if recorded.is_bernoulli else [1 / log(2)]
        recorded.close(average * nearest(units, average, recorded.outputs["fwd_avg_kl"]), "fwd_avg_kl")
    else:
        recorded.close(np.stack([kl, average / log(2)], 1), "fwd_kl")
    recorded.close(scalars["beta"], "fwd_beta")
    recorded.close(reconstruction, "fwd_recon_loss")
    recorded.close_in_its_unit(dims * reconstruction, "fwd_recon_metric")
    recorded.close(weighted, "fwd_gamma_kl")
    recorded.close_in_its_unit(dims * (weighted if recorded.is_flax else kl.sum()), "fwd_kl_div_metric")
    recorded.close(actual["loss"], "fwd_total_loss")
    recorded.close_if_recorded(actual["loss"], "fwd64_total_loss")


def nearest(factors, values, expected):
    """The factor with which values are closest to the expected ones."""
    return min(factors, key=lambda factor: np.abs(factor * values - expected).max())


def check_gradients(recorded, actual):
    """Recorded gradients, the norms of all, and zeros for parameters without a gradient."""
    gradients = recorded.canonical("grad/")
    assert gradients
    for name, expected in gradients.items():
        recorded.close(actual[f"grad/{name}"], name, expected, "gradients")
    original = {key.flax if recorded.is_flax else key.torch: key.name for key in recorded.keys}
    order = recorded.case.about["grad_norm_order"]
    assert set(order) == set(original)
    for name, expected in zip(order, recorded.outputs["fwd_grad_norms"], strict=True):
        recorded.case.close_norm(actual[f"grad/{original[name]}"], expected, name)
    for name in filter(None, recorded.outputs.get("no_grad_params", ())):
        assert not actual[f"grad/{original[name]}"].any()


@pytest.mark.parametrize("case", cases(*KINDS, output="masked_logits"))
def test_masked_pass(made):
    recorded, twin = made
    masks = [recorded.inputs[f"mask_{group}"] for group in recorded.groups]
    noise, x = recorded.latent_noise("masked", prior=True, posterior=True), recorded.picture_of("masked")
    actual = twin.forward(x, noise, {"beta": 1.0, "gamma": 0.0}, masks, gradients=False)
    recorded.close(actual["output"], "masked_logits", recorded.layer("masked_logits"))
    recorded.close_in_its_unit(actual["reconstruction"].mean(), "masked_recon_metric")
    masked = actual["kl"].sum(1).mean()
    recorded.close_in_its_unit(masked, "masked_kl_metric")
    recorded.close_in_its_unit(masked, "masked_kl_metric_masked")
    unmasked = sum(actual[f"divergence.{group}"].sum((1, 2, 3)).mean() for group in recorded.groups)
    recorded.close_in_its_unit(unmasked, "masked_kl_metric_unmasked")
    if "masked_outputs" in recorded.outputs:
        values = read(recorded, twin, actual["output"], "masked", "masked_outputs")
        for name in recorded.outputs:
            if re.fullmatch(r"ssim_x\d+_masked", name):
                check_similarity(recorded, x, values, name)


@pytest.mark.parametrize(("case", "setting"), tagged_cases(r"gen_outputs_(\d+)", *KINDS))
def test_generation(made, setting):
    recorded, twin = made
    temperatures = level_temperatures(
        recorded.plan, recorded.hparams.synthesis.temperature_settings[int(setting)]
    )
    levels = [temperatures[group] for group, block in enumerate(recorded.plan.down) if block.index == 0]
    np.testing.assert_allclose(levels, recorded.inputs[f"temp_{setting}"], rtol=1e-12)
    noise = recorded.latent_noise(f"gen{setting}", prior=True, posterior=False)
    actual = twin.generate(noise, temperatures)
    name = f"gen_z_last_{setting}"
    recorded.close(actual[f"z.{recorded.groups[-1]}"], name, recorded.nhwc(recorded.outputs[name]))
    read(recorded, twin, actual["output"], f"gen{setting}", f"gen_outputs_{setting}")


@pytest.mark.parametrize("case", cases(*KINDS, output="ema_fwd_logits"))
def test_averaged_weights(made):
    recorded, twin = made
    averaged = type(twin)(recorded.hparams, recorded.canonical("ema_after/"))
    noise = recorded.latent_noise("ema_fwd", prior=False, posterior=True)
    x = recorded.picture_of("ema_fwd")
    actual = averaged.forward(x, noise, {"beta": 1.0, "gamma": 0.0}, gradients=False)
    recorded.close(actual["output"], "ema_fwd_logits", recorded.layer("ema_fwd_logits"))


@pytest.mark.parametrize("case", cases(*KINDS))
def test_normalisation(made):
    """Of all pictures that are also recorded as 8-bit numbers."""
    recorded, twin = made
    for name, raw in recorded.inputs.items():
        if name.startswith("x_uint8_"):
            expected = recorded.picture(name.replace("uint8_", ""))
            actual = twin.normalise(recorded.nhwc(raw))
            # One unit in the last place, because XLA multiplies by 1 / 127.5.
            np.testing.assert_allclose(actual, expected, rtol=0, atol=2**-23, err_msg=name)


@pytest.mark.parametrize(("case", "pair"), tagged_cases(r"ssim_(x\d+_x\d+)", *KINDS))
def test_similarity_of_two_pictures(case, pair):
    recorded = Recorded(case)
    first, second = (recorded.picture(name.replace("x", "x_")) for name in pair.split("_"))
    check_similarity(recorded, first, second, f"ssim_{pair}")


def check_similarity(recorded, first, second, name):
    first, second = (x * 127.5 + 127.5 for x in (first, second))
    if recorded.is_flax:  # that program rounds first
        first, second = np.round(first), np.round(second)
    recorded.close(ssim(first, second).mean(), name)


def read(recorded, twin, output, label, name):
    """Check the pictures from the output layer, and their 8-bit form; return them before rounding."""
    noise, temperature = recorded.output_noise(label), recorded.hparams.synthesis.output_temperature
    if recorded.is_bernoulli and not recorded.is_flax:
        temperature = 1.0  # which that program leaves out for binarised digits
    values, pictures = twin.read(output, noise, "sample" if noise else "mean", temperature)
    expected = recorded.nhwc(recorded.outputs[name])
    recorded.close(values, name, expected)
    levels = expected * 255 if recorded.is_bernoulli else expected * 127.5 + 127.5
    assert np.abs(pictures - np.clip(np.round(levels), 0, 255)).max() <= 1
    return values
