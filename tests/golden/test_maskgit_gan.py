"""Both twins reproduce the adversarial objective of taming-transformers, its gradients and its statistics."""

from types import SimpleNamespace

import numpy as np
import pytest
import scipy.signal

from dioscuri.families.vqgan.discriminators import make_plan, parameter_table
from dioscuri.families.vqgan.options import Discriminator, Loss
from tests.golden.recorded import cases
from tests.support.gan import TWINS

KINDS = [("maskgit", "taming_gan_loss")]
MOMENTUM = 0.1
"""PyTorch's running statistics, which the original updates and nothing reads."""


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


def opened(kind, case):
    """The twin with the recorded weights, and recorded arrays in our layout."""
    config = case.about["config"]
    options = Discriminator(type="patchgan", num_layers=config["disc_num_layers"], ndf=config["disc_ndf"])
    x, h = (case.inputs[name].transpose(0, 2, 3, 1) for name in ("x", "h"))
    plan = make_plan(options, x.shape[1], x.shape[-1])
    weights = {name.removeprefix("discriminator."): array for name, array in case.weights.items()}
    buffers = {name: weights.pop(name) for name in list(weights) if name not in parameter_table(plan, "")}
    assert all(name.rpartition(".")[2].startswith(("running_", "num_")) for name in buffers)
    # Not given by weights: the original's distance needs some, the recorded substitute does not.
    loss = Loss(
        disc_weight=config["disc_weight"],
        perceptual_weight=config["perceptual_weight"],
        codebook_weight=config["codebook_weight"],
        lpips_path="stand-in",
    )
    return SimpleNamespace(
        twin=kind(plan, loss, weights), buffers=buffers, x=x, h=h, case=case, close=case.close,
        inputs=case.inputs, outputs=case.outputs,
    )  # fmt: skip


def generated(run, *, adversarial):
    return run.twin.generator(run.x, run.h, run.inputs["last_layer"], adversarial=adversarial, pooled=True)


def reconstructions(run):
    """Reconstructions, NHWC, by a different convolution than the twins'."""
    B, H, W, _ = run.x.shape
    kernel = run.inputs["last_layer"].astype(np.float64)
    made = np.zeros((B, H, W, len(kernel)))
    for b, o, i in np.ndindex(B, *kernel.shape[:2]):
        made[b, ..., o] += scipy.signal.correlate2d(run.h[b, ..., i], kernel[o, i], "same")
    return made


@pytest.mark.parametrize("case", cases(*KINDS))
@pytest.mark.parametrize("tag", ["before_start", "after_start"])
def test_generator_loss_and_gradient(kind, case, tag):
    run = opened(kind, case)
    actual = generated(run, adversarial=tag == "after_start")
    codebook = run.twin.options.codebook_weight * run.inputs["codebook_loss"]
    run.close(actual["loss"] + codebook, f"{tag}:gen_loss")
    run.close(actual["grad/kernel"], f"{tag}:grad_last_layer", tolerance="gradients")
    likelihood = actual["reconstruction"] + run.twin.options.perceptual_weight * actual["perceptual"]
    run.close(likelihood, f"{tag}:nll_loss")
    run.close(actual["perceptual"], f"{tag}:p_loss")
    # The original also computes these before the start, and multiplies them by 0.
    actual = generated(run, adversarial=True)
    run.close(actual["generator"], f"{tag}:g_loss")
    run.close(actual["disc_weight"], f"{tag}:d_weight")


@pytest.mark.parametrize("case", cases(*KINDS))
def test_discriminator_loss_and_gradients(kind, case):
    run = opened(kind, case)
    actual = run.twin.discriminator(run.x, reconstructions(run))
    run.close(actual["loss"], "after_start:disc_loss")
    run.close(actual["logits_real"], "after_start:logits_real_mean")
    run.close(actual["logits_fake"], "after_start:logits_fake_mean")
    prefix = "after_start:grad:discriminator."
    for name in case.of_prefix(prefix):
        run.close(actual[f"grad/{name}"], prefix + name, tolerance="gradients")


@pytest.mark.parametrize("case", cases(*KINDS))
def test_statistics_of_the_batches_are_those_that_the_original_averages(kind, case):
    run = opened(kind, case)
    actual = run.twin.discriminator(run.x, reconstructions(run))
    for name, start in run.buffers.items():
        module, _, leaf = name.rpartition(".")
        if not leaf.startswith("running"):
            continue
        number, value = module.removeprefix("main."), start.astype(np.float64)
        n = len(run.x) * _patches(run, number)
        for batch in ("fake", "real", "fake"):
            if leaf == "running_mean":
                new = actual[f"{batch}.mean.{number}"]
            else:
                new = actual[f"{batch}.variance.{number}"] * n / (n - 1)
            value = (1 - MOMENTUM) * value + MOMENTUM * new
        run.close(value, f"after_start:buffer:discriminator.{name}")


def _patches(run, number):
    """Number of a picture's pixels in a norm, from the convolution before it."""
    side = run.x.shape[1]
    for layer in run.twin.plan.patches:
        side = (side - 2) // layer.stride + 1
        if layer.index + 1 == int(number):
            return side**2
    raise AssertionError(number)


@pytest.mark.parametrize("case", cases(*KINDS))
@pytest.mark.parametrize("loss", ["hinge", "vanilla"])
@pytest.mark.parametrize("twin", TWINS)
def test_losses_of_logits(case, loss, twin):
    run = opened(TWINS[twin], case)
    run.close(run.twin.loss_of_logits(run.inputs["logits_real"], run.inputs["logits_fake"], loss), loss)
