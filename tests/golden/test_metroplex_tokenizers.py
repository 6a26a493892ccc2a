"""Both twins reproduce the tokenizers of Metroplex's later program, from imported weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.vqgan.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers.dcvae import critic_names, generator_names
from dioscuri.importers.metroplex import renamed
from dioscuri.importers.metroplex_json import cfg_text, options
from dioscuri.importers.metroplex_tokenizers import RESIDUAL, buffers_from_flax, critic_from_flax
from dioscuri.importers.published import canonical_weights
from dioscuri.plans.layout import unpack
from jax_impl.layers import quantizers as jax_quantizers
from tests.golden.recorded import cases
from tests.support.engines import engine_of
from tests.support.tokenizers import TWINS
from torch_impl.layers import quantizers as torch_quantizers

QUANTIZERS = {"torch": torch_quantizers, "jax": jax_quantizers}
KINDS = VQVAE, DCVAE = [("metroplex", f"metroplex_jax_{model}") for model in ("vqvae", "dcvae")]
ORIGINAL = ("loss.legacy_half_r1=True", "model.legacy_frozen_spectral_norm=True")
"""Errors of the original training that the recorded step contains."""
SCALARS = {"learning_rate": 0.0, "adversarial": 1.0, "gumbel_temperature": 1.0}


class Run:
    """A case, its options and weights through the command's conversions."""

    def __init__(self, case, scratch, *overrides):
        self.case, self.about, self.close = case, case.about, case.close
        self.inputs, self.outputs, self.arrays = case.inputs, case.outputs, case.weights
        path = scratch / "hparams-converted.cfg"
        model = {"gan": True} if case.kind == DCVAE else {"model": "vqvae"}
        path.write_text(cfg_text(options({**model, **self.about["config"]}), "converted"))
        self.hparams = load(path, ["run.num_gpus=0", *overrides])
        data = self.hparams.data
        self.plan = make_plan(self.hparams.model, data.target_res, data.channels)
        self.weights = canonical_weights(self.arrays, self.hparams, case.folder)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(VQVAE))
def test_vqvae(case, twin, tmp_path):
    run = Run(case, tmp_path)
    tokenizer = TWINS[twin](run.plan, run.weights, power=1)
    buffers = buffers_from_flax(run.arrays, run.hparams)
    found = tokenizer.forward(run.inputs["x"])
    run.close(found["z"], "enc_out")
    run.close(found["decoded"], "recon")
    np.testing.assert_array_equal(found["indices"], run.outputs["indices"])
    pictures = np.round((found["decoded"].clip(-1, 1) + 1) * 127.5)
    assert np.abs(pictures - run.outputs["recon_uint8"]).max() <= 1
    values, gradients = tokenizer.train(run.inputs["x"], None, buffers)
    run.close(values["made"], "recon")
    run.close(values["loss"], "loss")
    run.close(values["loss.quantiser"], "kl")
    check_gradients(run, gradients)
    new = {name.removeprefix("new."): value for name, value in values.items() if name.startswith("new.")}
    check_averages(run, new, QUANTIZERS[twin])


def check_gradients(run, gradients):
    for original, expected in zip(run.about["param_names"], run.outputs["grad_l2"], strict=True):
        gradient = gradients[renamed(original, RESIDUAL)]
        run.case.close_norm(gradient, expected, original)
        if f"grad/{original}" in run.outputs:
            run.close(gradient.transpose(2, 3, 1, 0), f"grad/{original}", tolerance="gradients")


def check_averages(run, new, quantizers):
    """Averages after the step, and the next step's codes."""
    make = torch.tensor if quantizers is torch_quantizers else jnp.asarray
    tensors = {name: make(value) for name, value in new.items()}
    weight = np.asarray(quantizers.averaged_weight(run.plan, tensors))
    names = [f"new_stats/quantizer/ExponentialMovingAverage_{i}" for i in (0, 1)]
    for name, ours in zip(names, ("cluster_size", "embedding_sum"), strict=True):
        run.close(new[ours].T, f"{name}/hidden")
        run.close(new[ours].T / weight, f"{name}/average")
        np.testing.assert_array_equal(run.outputs[f"{name}/counter"], new["averaged"][0])
    run.close(np.asarray(quantizers.averaged_codebook(run.plan, tensors)).T, "new_stats/quantizer/embeddings")


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(DCVAE))
def test_dcvae_step(case, twin, tmp_path):
    """Losses, norms and changes of a step of both networks, the second against the updated first one."""
    run = Run(case, tmp_path, *ORIGINAL)
    engine = engine_of(twin, run.hparams)
    state = {"model": run.weights | critic_from_flax(run.arrays, run.hparams)}
    state["buffers"] = buffers_from_flax(run.arrays, run.hparams)
    engine.state_from_numpy(state)
    image = run.inputs["image_uint8"]
    made = engine.run("reconstruct", {"image": image}, ema=False, step=0)["image"]
    assert np.abs(made / 127.5 - 1 - run.outputs["fake_batch"].clip(-1, 1)).max() <= 1 / 127
    check_critic(run, engine, state, image, twin)
    check_generator(run, engine, image, twin)


def check_critic(run, engine, state, image, twin):
    """The discriminator's update, by plain gradient descent, which the engine then holds."""
    names = critic_names(engine.family.critic.contrast)
    found, new, gradients = gradient_of(engine, twin, "critic", image)
    run.close(found["loss"], "stat/disc_loss")
    real_and_fake = run.outputs["stat/real_loss"] + run.outputs["stat/fake_loss"]
    run.close(found["discriminator"], "real_loss + fake_loss", real_and_fake)
    check_changes(run, gradients, "D", "discriminator.", names)
    for ours, theirs in names.items():
        run.close(new[f"u.discriminator.{ours}"][None], f"new_stats/D/{theirs}/u0")
    rate = run.about["config"]["lr"]
    state["model"] = {name: value - rate * gradients[name] for name, value in state["model"].items()}
    state["buffers"] = new
    engine.state_from_numpy(state)


def check_generator(run, engine, image, twin):
    """The generator's update against the updated discriminator."""
    found, new, gradients = gradient_of(engine, twin, "generator", image)
    names = {"loss": "gen_loss", "generator": "fake_real_loss", "contrastive": "contra_loss_g"}
    for ours, theirs in {**names, "quantiser": "kl", "reconstruction": "recon_loss"}.items():
        run.close(found[ours], f"stat/{theirs}")
    check_changes(run, gradients, "G", "", generator_names(run.plan.spectral))
    for ours, theirs in generator_names(run.plan.spectral).items():
        run.close(new[f"u.{ours}"][None], f"new_stats/G/{theirs}/u0")
        run.close(new[f"sigma.{ours}"][0], f"new_stats/G/{theirs}/sigma")
    make = torch.tensor if twin == "torch" else jnp.asarray
    new = {name: make(new[name]) for name in ("cluster_size", "embedding_sum", "averaged")}
    codes = QUANTIZERS[twin].averaged_codebook(run.plan, new)
    run.close(np.asarray(codes).T, "new_stats/G/quantizer/embeddings")


def gradient_of(engine, twin, network, image):
    """Metrics, new buffers and canonical gradients of the loss of one network; the other one is fixed."""
    loss = engine.family.loss if network == "generator" else engine.family.discriminator_loss

    def gradient(state, scalars, image):
        def objective(model, batch, noise):
            return loss(model, batch, noise, {**scalars, "adversarial": True}, state.buffers, {})

        return engine.trainer.gradient(objective, state, {"image": image}, {})

    if twin == "torch":
        scalars = {name: torch.tensor(value) for name, value in SCALARS.items()}
        flat, *found = gradient(engine.state, scalars, torch.from_numpy(image))
    else:
        scalars = {name: np.float32(value) for name, value in SCALARS.items()}
        flat, *found = jax.jit(gradient)(engine.state, scalars, image)
    metrics, buffers = ({name: np.asarray(value) for name, value in arrays.items()} for arrays in found)
    return metrics, buffers, unpack(np.asarray(flat), engine.layout)


def check_changes(run, gradients, network, prefix, spectral):
    """Changes by plain gradient descent, which are proportional to the gradient: of
    every parameter, and of all."""
    theirs = {f"{name}/kernel": f"{prefix}{ours}.weight" for ours, name in spectral.items()}
    theirs |= {f"{name}/bias": f"{prefix}{ours}.bias" for ours, name in spectral.items()}
    n = 2 * len(run.plan.spectral.decoder)
    for i in range(n):
        theirs[f"decoder/Conv2D_{i}/kernel"] = f"decoder.blocks.{i // 2}.conv{1 + i % 2}.weight"
    theirs[f"decoder/Conv2D_{n}/kernel"] = "decoder.conv_out.weight"
    tol, total = run.about["tol"]["gradients"]["of_max"], 0.0
    recorded = run.outputs[f"delta_l2/{network}"] / run.about["config"]["lr"]
    for name, expected in zip(run.about["param_names"][network], recorded, strict=True):
        norm = np.linalg.norm(gradients.get(theirs.get(name), np.zeros(1)))
        # Differences of float32 parameters are rounded.
        assert norm == pytest.approx(expected, rel=5 * tol, abs=1e-3), name
        total += norm**2
    named = "disc_norm" if network == "D" else "gen_norm"
    assert np.sqrt(total) == pytest.approx(run.outputs[f"stat/{named}"], rel=tol)
