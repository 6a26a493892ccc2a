"""Both twins reproduce what the original programs computed, from weights that went through the importer."""

from math import log

import numpy as np
import pytest

from dioscuri import schedules
from dioscuri.families.latent_models.plan import level_temperatures
from dioscuri.metrics.ssim import ssim
from tests.golden import host_cases
from tests.golden.recorded import Recorded, cases, kind
from tests.support.models import TWINS

MODELS = [("hierarchical_vae", f"efficient_vdvae_{program}") for program in ("torch", "jax")]
ELSEWHERE = {
    "maskgit": (
        "maskgit_vqgan", "taming_vqgan", "maskgit_flax_tokenizer",  # test_maskgit_tokenizers.py
        "taming_gan_loss",  # test_maskgit_gan.py
        "maskgit_transformer", "uvit", "maskgit_flax_transformer",  # test_maskgit_transformers.py
        "halton_maskgit", "lucidrains_token_critic",  # the same
        "tables",  # test_maskgit_tables.py
    ),
    "sundae": (
        "hourglass",  # test_sundae.py
        "sundae_sampling", "sundae_inpaint",  # test_sundae_samplers.py
        "sundae_train", "sundae_text8",  # test_sundae_training.py
        "taming_vqgan_latents",  # test_maskgit_tokenizers.py
    ),
    "metroplex": (
        "metroplex_tf", "metroplex_jax_vdvae",  # test_metroplex.py
        "tf_input",  # test_metroplex_input.py
        "metroplex_jax_vqvae", "metroplex_jax_dcvae",  # test_metroplex_tokenizers.py
    ),
}  # fmt: skip
MAX_SETTINGS = 8
HOST = {("hierarchical_vae", runner): check for runner, check in host_cases.RUNNERS.items()}


@pytest.mark.parametrize(("folder", "case"), cases())
def test_case_is_of_a_known_kind(folder, case):
    elsewhere = [(family, runner) for family, runners in ELSEWHERE.items() for runner in runners]
    assert kind(case) in [*MODELS, *HOST, *elsewhere], f"no check for {kind(case)}"


@pytest.mark.parametrize(("folder", "case"), cases(*HOST))
def test_host(folder, case, tmp_path):
    HOST[kind(case)](folder, tmp_path)


@pytest.fixture(params=TWINS)
def made(request, folder, case):
    """The recorded numbers and a twin with their weights."""
    recorded = Recorded(folder, case)
    return recorded, TWINS[request.param](recorded.hparams, recorded.weights)


@pytest.mark.parametrize(("folder", "case"), cases(*MODELS))
def test_forward_losses_and_gradients(made):
    recorded, twin = made
    step, loss = recorded.case["fwd_step_n"], recorded.hparams.loss
    scalars = {"beta": schedules.beta(step, loss), "gamma": schedules.gamma(step, loss)}
    noise = recorded.latent_noise("fwd", prior=False, posterior=True)
    found = twin.forward(recorded.picture(3), noise, scalars)
    recorded.close(found["output"], "fwd_logits", recorded.layer("fwd_logits"))
    check_statistics(recorded, found)
    check_losses(recorded, found, scalars)
    check_gradients(recorded, found)


def check_statistics(recorded, found):
    """Means and scales of the recorded groups, and KL of every group and variate."""
    for group in recorded.groups:
        for ours, theirs in (("posterior", "post"), ("prior", "prior")):
            for statistic, number in (("mean", 0), ("scale", 1)):
                if (name := f"fwd_{theirs}{number}_{group}") in recorded.outputs:
                    recorded.close(
                        found[f"{ours}_{statistic}.{group}"], name, recorded.nhwc(recorded.outputs[name])
                    )
    if "div_stats" in recorded.outputs:
        bits = [found[f"divergence.{group}"].mean((0, 1, 2)) / log(2) for group in recorded.groups]
        recorded.close(np.stack(bits), "div_stats")


def check_losses(recorded, found, scalars):
    """What the programs train on, per value of the picture, and what they log."""
    plan = recorded.plan
    reconstruction, kl = (
        found["reconstruction"].mean() / plan.image_dims,
        found["kl"].mean(0) / plan.image_dims,
    )
    average = kl * plan.image_dims / [plan.latent_dims(group) * log(2) for group in recorded.groups]
    weighted = (found["loss"] - reconstruction) / scalars["beta"]
    # The JAX program turns everything that it logs of binarised digits into nats a picture.
    logged = plan.image_dims if recorded.is_flax and recorded.is_bernoulli else 1 / log(2)
    if recorded.is_flax:
        recorded.close(kl, "fwd_kl")
        recorded.close(average * (log(2) * logged), "fwd_avg_kl")
    else:
        recorded.close(np.stack([kl, average], 1), "fwd_kl")
    recorded.close(scalars["beta"], "fwd_beta")
    recorded.close(reconstruction, "fwd_recon_loss")
    recorded.close(reconstruction_metric(recorded, found), "fwd_recon_metric")
    recorded.close(weighted, "fwd_gamma_kl")
    recorded.close((weighted if recorded.is_flax else kl.sum()) * logged, "fwd_kl_div_metric")
    recorded.close(found["loss"], "fwd_total_loss")
    recorded.close(found["loss"], "fwd64_total_loss")


def check_gradients(recorded, found):
    """Recorded gradients, the norms of all, and zeros where the program had none."""
    gradients = recorded.canonical("grad/")
    assert gradients
    for name, expected in gradients.items():
        recorded.close(found[f"grad/{name}"], name, expected, "gradients")
    tol = recorded.case["tol"]["gradients"]
    original = {key.flax if recorded.is_flax else key.torch: key.name for key in recorded.keys}
    order = recorded.case["grad_norm_order"]
    assert set(order) == set(original)
    for name, expected in zip(order, recorded.outputs["fwd_grad_norms"], strict=True):
        gradient = found[f"grad/{original[name]}"]
        floor = tol["abs_floor"] * np.sqrt(gradient.size)
        assert np.linalg.norm(gradient) == pytest.approx(expected, rel=tol["of_max"], abs=floor), name
    for name in filter(None, recorded.outputs.get("no_grad_params", ())):
        assert not found[f"grad/{original[name]}"].any()


def reconstruction_metric(recorded, found):
    """Bits a value, or nats a picture for binarised digits."""
    return found["reconstruction"].mean() / (
        1 if recorded.is_bernoulli else recorded.plan.image_dims * log(2)
    )


@pytest.mark.parametrize(("folder", "case"), cases(*MODELS, output="masked_logits"))
def test_masked_pass(made):
    recorded, twin = made
    masks = [recorded.inputs[f"mask_{group}"] for group in recorded.groups]
    noise = recorded.latent_noise("masked", prior=True, posterior=True)
    found = twin.forward(recorded.picture(3), noise, {"beta": 1.0, "gamma": 0.0}, masks, gradients=False)
    recorded.close(found["output"], "masked_logits", recorded.layer("masked_logits"))
    recorded.close(reconstruction_metric(recorded, found), "masked_recon_metric")
    unit = 1 if recorded.is_bernoulli else recorded.plan.image_dims * log(2)
    masked = found["kl"].sum(1).mean() / unit
    recorded.close(masked, "masked_kl_metric")
    recorded.close(masked, "masked_kl_metric_masked")
    unmasked = sum(found[f"divergence.{group}"].sum((1, 2, 3)).mean() for group in recorded.groups) / unit
    recorded.close(unmasked, "masked_kl_metric_unmasked")
    if "masked_outputs" in recorded.outputs:
        values = read(recorded, twin, found["output"], "masked", "masked_outputs")
        check_similarity(recorded, recorded.picture(3), values, "ssim_x4_masked")


def generation_cases():
    """A case and the index of a temperature setting whose pictures it recorded."""
    for s in range(MAX_SETTINGS):
        for case in cases(*MODELS, output=f"gen_outputs_{s}"):
            yield pytest.param(*case.values, s, id=f"{case.id}-{s}")


@pytest.mark.parametrize(("folder", "case", "setting"), [*generation_cases()])
def test_generation(made, setting):
    recorded, twin = made
    temperatures = level_temperatures(recorded.plan, recorded.hparams.synthesis.temperature_settings[setting])
    levels = [temperatures[group] for group, block in enumerate(recorded.plan.down) if block.index == 0]
    np.testing.assert_allclose(levels, recorded.inputs[f"temp_{setting}"], rtol=1e-12)
    noise = recorded.latent_noise(f"gen{setting}", prior=True, posterior=False)
    found = twin.generate(noise, temperatures)
    name = f"gen_z_last_{setting}"
    recorded.close(found[f"z.{recorded.groups[-1]}"], name, recorded.nhwc(recorded.outputs[name]))
    read(recorded, twin, found["output"], f"gen{setting}", f"gen_outputs_{setting}")


@pytest.mark.parametrize(("folder", "case"), cases(*MODELS, output="ema_fwd_logits"))
def test_averaged_weights(made):
    recorded, twin = made
    averaged = type(twin)(recorded.hparams, recorded.canonical("ema_after/"))
    noise = recorded.latent_noise("ema_fwd", prior=False, posterior=True)
    found = averaged.forward(recorded.picture(3), noise, {"beta": 1.0, "gamma": 0.0}, gradients=False)
    recorded.close(found["output"], "ema_fwd_logits", recorded.layer("ema_fwd_logits"))


@pytest.mark.parametrize(("folder", "case"), cases(*MODELS))
def test_normalisation(made):
    """Of all pictures that are also recorded as 8-bit numbers."""
    recorded, twin = made
    for name, raw in recorded.inputs.items():
        if name.startswith("x_uint8_"):
            expected = recorded.picture(name.removeprefix("x_uint8_"))
            found = twin.normalise(recorded.nhwc(raw))
            # One unit in the last place: XLA multiplies by 1 / 127.5.
            np.testing.assert_allclose(found, expected, rtol=0, atol=2**-23, err_msg=name)


@pytest.mark.parametrize(("folder", "case"), cases(*MODELS, output="ssim_x0_x1"))
def test_similarity_of_two_pictures(folder, case):
    recorded = Recorded(folder, case)
    check_similarity(recorded, recorded.picture(0), recorded.picture(1), "ssim_x0_x1")


def check_similarity(recorded, first, second, name):
    if name in recorded.outputs:
        first, second = (x * 127.5 + 127.5 for x in (first, second))
        if recorded.is_flax:  # that program rounds first
            first, second = np.round(first), np.round(second)
        recorded.close(ssim(first, second).mean(), name)


def read(recorded, twin, output, label, name):
    """Check the pictures that the output layer gives, and their 8-bit form; returns them before rounding."""
    noise, temperature = recorded.output_noise(label), recorded.hparams.synthesis.output_temperature
    if recorded.is_bernoulli and not recorded.is_flax:
        temperature = 1.0  # which that program leaves out for binarised digits
    values, pictures = twin.read(output, noise, "sample" if noise else "mean", temperature)
    expected = recorded.nhwc(recorded.outputs[name])
    recorded.close(values, name, expected)
    levels = expected * 255 if recorded.is_bernoulli else expected * 127.5 + 127.5
    assert np.abs(pictures - np.clip(np.round(levels), 0, 255)).max() <= 1
    return values
