"""Both twins reproduce MaskBit's tokenizers, their losses and their gradients."""

import re
from dataclasses import replace

import numpy as np
import pytest

from dioscuri.families.vqgan.discriminators import make_plan as critic_plan
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.families.vqgan.training import entropy_annealing
from dioscuri.importers.maskbit import (
    from_maskbit_tokenizer,
    maskbit_discriminator,
    maskbit_loss,
    maskbit_tokenizer,
)
from tests.golden.recorded import cases
from tests.support.adversarial_tokenizers import TWINS

KINDS = [("maskbit", "maskbit_tokenizer")]
CRITIC = "loss.discriminator."


class Run:
    """A case and a twin with its weights."""

    def __init__(self, twin, case):
        config = case.about["config"]
        self.case, self.inputs, self.outputs, self.close = case, case.inputs, case.outputs, case.close
        self.x, self.z = nhwc(case.inputs["image"]), nhwc(case.outputs["encoder_out"])
        self.legacy = config["legacy"]
        self.plan = make_plan(maskbit_tokenizer(config["vq_model"], legacy=self.legacy), *self.x.shape[2:])
        critic = critic_plan(maskbit_discriminator(config["discriminator"]), *self.x.shape[2:])
        assert case.settings["loss"]["perceptual_stand_in"] == "mean |a-b|"
        loss = maskbit_loss(case.settings["loss"], lpips_path="stand-in")
        weights = self.canonical(case.weights)
        buffers = {f"lecam.{kind}": case.weights[f"loss.ema_{kind}_logits_mean"] for kind in ("real", "fake")}
        self.twin = twin(self.plan, critic, loss, weights, buffers)

    def canonical(self, arrays):
        """Arrays of tokenizer and discriminator under our names."""
        of_critic = {
            name.replace(CRITIC, "discriminator."): array
            for name, array in arrays.items()
            if name.startswith(CRITIC)
        }
        return from_maskbit_tokenizer(arrays, self.plan, legacy=self.legacy) | of_critic


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def nchw(array):
    return array.transpose(0, 3, 1, 2)


@pytest.fixture(params=TWINS)
def run(request, case):
    return Run(TWINS[request.param], case)


@pytest.mark.parametrize("case", cases(*KINDS))
def test_stages(run):
    actual = run.twin.forward(run.x)
    run.close(nchw(actual["z"]), "encoder_out")
    run.close(nchw(actual["codes"]), "z_quantized_eval")
    np.testing.assert_array_equal(actual["indices"], run.outputs["indices"])
    run.close(nchw(run.twin.decode_indices(run.outputs["indices"])), "decode_tokens_image")
    if "codebook_entry" in run.outputs:
        run.close(actual["codes"], "codebook_entry")
    for name in run.outputs:
        if match := re.fullmatch(r"entropy_(per_sample|avg)_T([\d.]+)", name):
            of_positions, of_average = run.twin.entropies(run.z, float(match[2]))
            run.close(of_positions if match[1] == "per_sample" else of_average, name)


@pytest.mark.parametrize("case", cases(*KINDS))
def test_quantiser_losses(run):
    options, losses = run.plan.options, run.twin.quantiser_losses(run.x)
    commitment, codes = options.commitment_cost * losses["encoder"], losses.get("codes", np.float32(0))
    run.close(commitment, "eval_commitment_loss")
    run.close(commitment + codes, "eval_quantizer_loss")
    run.close(commitment, "train_commitment_loss")
    run.close(losses["quantiser"], "train_quantizer_loss")
    if "train_codebook_loss" in run.outputs:
        run.close(codes, "train_codebook_loss")
    run.close(options.entropy_loss_ratio * losses["entropy"], "train_entropy_loss")
    of_positions, of_average = run.twin.entropies(run.z, options.entropy_temperature)
    run.close(of_positions, "train_per_sample_entropy")
    run.close(options.entropy_gamma * of_average, "train_avg_entropy")
    if "grad:z_of_quantizer_loss" in run.outputs:
        grad = run.twin.gradient_of_quantiser_loss(run.x)
        run.close(nchw(grad), "grad:z_of_quantizer_loss", tolerance="gradients")


@pytest.mark.parametrize("case", cases(*KINDS))
def test_training(run):
    loss, steps = run.twin.loss, run.case.settings["steps"]
    assert steps["off"] < loss.disc_start <= steps["on"]
    for tag in ("off", "on"):
        step = steps[tag]
        actual = run.twin.train_both(
            run.x, entropy_annealing(step, loss), adversarial=step >= loss.disc_start
        )
        run.close(nchw(actual["image"]), "image")
        rec = loss.reconstruction_weight * actual["reconstruction"]
        weight = actual["disc_weight"] * loss.disc_factor
        run.close(rec, f"gen_{tag}_reconstruction_loss")
        run.close(loss.perceptual_weight * actual["perceptual"], f"gen_{tag}_perceptual_loss")
        run.close(loss.codebook_weight * actual["quantiser"], f"gen_{tag}_quantizer_loss")
        run.close(actual["generator"], f"gen_{tag}_gan_loss")
        run.close(actual["disc_weight"], f"gen_{tag}_d_weight")
        run.close(weight * actual["generator"], f"gen_{tag}_weighted_gan_loss")
        run.close(actual["generator_total"], f"gen_{tag}_total")
    run.close(nchw(actual["real"]), "logits_real")
    run.close(nchw(actual["fake"]), "logits_fake")
    run.close(actual["discriminator_total"], "disc_total")
    run.close(loss.lecam_weight * actual["lecam"], "disc_lecam")
    for kind in ("real", "fake"):
        run.close(actual[f"new.lecam.{kind}"], f"ema_{kind}_logits_mean_after")
    expected = run.canonical(run.case.of_prefix("grad:"))
    for name in expected.keys() - {"z_of_quantizer_loss"}:
        run.close(actual[f"grad/{name}"], name, expected[name], "gradients")


@pytest.mark.parametrize("case", cases(*KINDS))
def test_every_recorded_weight_has_a_place(case):
    run = Run(TWINS["torch"], case)
    assert {name: array.shape for name, array in run.twin.weights.items()} == run.twin.shapes
    assert parameter_table(run.plan).keys() <= run.twin.weights.keys()


@pytest.mark.parametrize("case", cases(*KINDS))
@pytest.mark.parametrize(
    "change", [{"entropy_gamma": 2.0}, {"entropy_type": "argmax"}, {"commitment_cost": 0.5}]
)
def test_another_setting_fails(case, change):
    run = Run(TWINS["torch"], case)
    run.twin.plan = run.plan = replace(run.plan, options=replace(run.plan.options, **change))
    with pytest.raises(AssertionError):
        test_quantiser_losses(run)
