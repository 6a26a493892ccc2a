"""Both twins reproduce the tokenizers of open-muse, taming-transformers and MaskGIT, with their gradients."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.importers.google import from_google_tokenizer, google_tokenizer
from dioscuri.importers.open_muse import open_muse_tokenizer
from tests.golden.recorded import cases
from tests.support.tokenizers import TWINS

PYTORCH = [("maskgit", "maskgit_vqgan"), ("maskgit", "taming_vqgan")]
FLAX = ("maskgit", "maskgit_flax_tokenizer")
TAMING = ("sundae", "taming_vqgan_latents")


class Run:
    """A case: recorded arrays and a twin with its weights."""

    def __init__(self, twin, folder, case):
        self.case = case
        self.inputs, self.outputs = (dict(np.load(folder / f"{name}.npz")) for name in ("inputs", "outputs"))
        saved = load_file(folder / case["weights"]["file"])
        saved = {name: array.astype(np.float32) for name, array in saved.items()}
        self.flax = case["runner"] == FLAX[1]
        self.x = self.inputs["image" if self.flax else "pixel_values"]
        self.x = self.x if self.flax else nhwc(self.x)
        self.plan = make_plan(options(case), self.x.shape[1], 3)
        self.twin = twin(self.plan, from_google_tokenizer(saved, self.plan) if self.flax else saved)

    def close(self, found, name, tolerance="outputs"):
        expected, tol = self.outputs[name], self.case["tol"][tolerance]
        limit = max(tol["of_max"] * np.abs(expected).max(), tol.get("abs_floor", 0))
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=limit, err_msg=name)


def options(case):
    """Through the importer of published configurations."""
    config = case["config"]
    if "vqvae" in config:
        return google_tokenizer(config["vqvae"])
    return open_muse_tokenizer(config, case["runner"].split("_")[0])[0]


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def nchw(array):
    return array.transpose(0, 3, 1, 2)


@pytest.fixture(params=TWINS)
def run(request, folder, case):
    return Run(TWINS[request.param], folder, case)


@pytest.mark.parametrize(("folder", "case"), cases(*PYTORCH))
def test_stages(run):
    found = run.twin.forward(run.x)
    run.close(nchw(found["z"]), "z_pre_quant")
    run.close(found["distances"], "distances")
    np.testing.assert_array_equal(found["indices"].reshape(2, -1), run.outputs["indices"])
    run.close(nchw(found["codes"]), "quantized")
    run.close(nchw(found["decoded"]), "decoded")
    if "soft_code_t07" in run.outputs:
        run.close(found["soft"], "soft_code_t07")
    side = run.plan.grid
    made = run.twin.decode_indices(run.inputs["random_ids"].reshape(2, side, side))
    run.close(nchw(made), "decode_code_of_random_ids")


@pytest.mark.parametrize(("folder", "case"), cases(*PYTORCH))
def test_training(run):
    found, grads = run.twin.train(run.x)
    run.close(nchw(found["made"]), "train_rec")
    run.close(nchw(found["codes"]), "train_quantized_st")
    run.close(found["loss.quantiser"], "codebook_loss")
    run.close(found["loss"], "train_loss")
    checked = [name for name in run.outputs if name.startswith("grad:")]
    assert len(checked) > 5
    for name in checked:
        run.close(grads[name.removeprefix("grad:")], name, "gradients")


@pytest.mark.parametrize(("folder", "case"), cases(*PYTORCH))
def test_two_steps(run):
    weights = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in run.twin.weights.items()}
    rule = torch.optim.AdamW(weights.values(), lr=1e-3, betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    for step in (1, 2):
        found, grads = run.twin.train(run.x)
        run.close(found["loss"], f"step{step}_loss_before")
        for name, parameter in weights.items():
            parameter.grad = torch.tensor(grads[name])
        rule.step()
        run.twin.weights = {name: parameter.detach().numpy() for name, parameter in weights.items()}
    tol = run.case["tol"]["parameters_after_steps"]
    for name, expected in run.outputs.items():
        if name.startswith("step2:"):
            off = np.abs(run.twin.weights[name.removeprefix("step2:")] - expected)
            within = (off <= tol["of_max"] * np.abs(expected).max()).mean()
            assert within >= tol["share_of_entries"], name


@pytest.mark.parametrize(("folder", "case"), cases(FLAX))
def test_flax(run):
    found = run.twin.forward(run.x)
    for ours, theirs in (("z", "z_pre_quant"), ("codes", "quantized"), ("decoded", "rec")):
        run.close(found[ours], theirs)
    run.close(found["distances"], "distances")
    np.testing.assert_array_equal(found["indices"], run.outputs["indices"])
    found, grads = run.twin.train(run.x)
    run.close(found["made"], "train_rec")
    run.close(found["loss"], "train_total")
    run.close(found["loss.quantiser"], "quantizer_loss")
    run.close(0.25 * found["loss.encoder"], "e_latent_loss")
    run.close(0.1 * found["loss.entropy"], "entropy_loss")
    theirs = {name.removeprefix("grad:"): array for name, array in run.outputs.items() if ":" in name}
    run.outputs |= from_google_tokenizer(theirs, run.plan)
    assert len(theirs) == 9
    for name in from_google_tokenizer(theirs, run.plan):
        run.close(grads[name], name, "gradients")


@pytest.mark.parametrize(("folder", "case"), cases(*PYTORCH, FLAX))
def test_every_recorded_weight_has_a_place(run):
    table = parameter_table(run.plan)
    assert {name: array.shape for name, array in run.twin.weights.items()} == {
        name: parameter.shape for name, parameter in table.items()
    }


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize(("folder", "case"), cases(TAMING))
def test_taming_latents(name, folder, case):
    """The tokenizer of sundae-vqgan, which is given pictures in [0, 1] and reads them in [-1, 1]."""
    inputs, outputs = (dict(np.load(folder / f"{part}.npz")) for part in ("inputs", "outputs"))
    made, config = case["constructor"], case["constructor"]["ddconfig"]
    chosen = Tokenizer(
        architecture="taming", hidden_channels=config["ch"], channel_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"], z_channels=config["z_channels"],
        embedding_dim=made["embed_dim"], num_embeddings=made["n_embed"], legacy_commitment=True,
        attn_resolutions=tuple(config["attn_resolutions"]), pixel_range="signed",
    )  # fmt: skip
    weights = load_file(folder / case["weights"]["file"])
    twin = TWINS[name](make_plan(chosen, config["resolution"], 3), weights)
    x = nhwc(2 * inputs["image"] - 1)
    found = twin.forward(x)
    tol = case["tol"]["outputs"]["of_max"]
    for ours, theirs in (("z", "pre_quant"), ("codes", "quantized"), ("decoded", "recon")):
        expected = outputs[theirs]
        assert np.abs(nchw(found[ours]) - expected).max() <= tol * np.abs(expected).max(), theirs
    np.testing.assert_array_equal(found["indices"].reshape(2, -1), outputs["indices"])
    shown = (found["decoded"].clip(-1, 1) + 1) / 2
    assert np.abs(nchw(shown) - outputs["decoded_image"]).max() <= tol
