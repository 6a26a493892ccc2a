"""Both twins reproduce the tokenizers of Metroplex's later program, from imported weights."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from common.checkpoint.metroplex import renamed
from common.checkpoint.metroplex_tokenizers import RESIDUAL, buffers_from_flax
from common.checkpoint.published import canonical_weights
from common.hparams import load
from common.hparams.metroplex_json import cfg_text, options
from common.plans.tokenizers import make_plan
from jax_impl.layers import quantizers as jax_quantizers
from tests.golden.recorded import cases
from tests.tokenizers import TWINS
from torch_impl.layers import quantizers as torch_quantizers

QUANTIZERS = {"torch": torch_quantizers, "jax": jax_quantizers}
VQVAE = ("metroplex", "metroplex_jax_vqvae")


class Run:
    """A case: recorded arrays, options and weights through the command's conversions."""

    def __init__(self, folder, case, scratch):
        self.case = case
        self.inputs, self.outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
        self.arrays = load_file(folder / "weights.safetensors")
        path = scratch / "converted.cfg"
        path.write_text(cfg_text(options({"model": "vqvae", **case["config"]}), "converted"))
        self.hparams = load(path)
        data = self.hparams.data
        self.plan = make_plan(self.hparams.model, data.target_res, data.channels)
        self.weights = canonical_weights(self.arrays, self.hparams, folder)

    def close(self, found, name, tolerance="outputs"):
        expected, tol = np.asarray(self.outputs[name]), self.case["tol"][tolerance]
        limit = max(tol["of_max"] * np.abs(expected).max(), tol.get("abs_floor", 0))
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(VQVAE))
def test_vqvae(folder, case, twin, tmp_path):
    run = Run(folder, case, tmp_path)
    tokenizer = TWINS[twin](run.plan, run.weights, power=1)
    buffers = buffers_from_flax(run.arrays, run.plan)
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
    tol = run.case["tol"]["gradients"]
    for original, expected in zip(run.case["param_names"], run.outputs["grad_l2"], strict=True):
        gradient = gradients[renamed(original, RESIDUAL)]
        floor = tol["abs_floor"] * np.sqrt(gradient.size)
        assert np.linalg.norm(gradient) == pytest.approx(expected, rel=tol["of_max"], abs=floor), original
        if f"grad/{original}" in run.outputs:
            run.close(gradient.transpose(2, 3, 1, 0), f"grad/{original}", "gradients")


def check_averages(run, new, quantizers):
    """Averages after the step, and the codes that they make for the next one."""
    make = torch.tensor if quantizers is torch_quantizers else jnp.asarray
    tensors = {name: make(value) for name, value in new.items()}
    weight = np.asarray(quantizers.averaged_weight(run.plan, tensors))
    names = [f"new_stats/quantizer/ExponentialMovingAverage_{i}" for i in (0, 1)]
    for name, ours in zip(names, ("cluster_size", "embedding_sum"), strict=True):
        run.close(new[ours].T, f"{name}/hidden")
        run.close(new[ours].T / weight, f"{name}/average")
        np.testing.assert_array_equal(run.outputs[f"{name}/counter"], new["averaged"][0])
    run.close(np.asarray(quantizers.assigned_codebook(run.plan, tensors)).T, "new_stats/quantizer/embeddings")
