"""Both twins reproduce the tokenizers of open-muse, taming-transformers and MaskGIT, with their gradients."""

import re

import numpy as np
import pytest
import torch

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
KINDS = [*PYTORCH, FLAX, TAMING]


class Run:
    """A case and a twin with its weights."""

    def __init__(self, twin, case):
        self.case, self.inputs, self.outputs, self.close = case, case.inputs, case.outputs, case.close
        self.flax = case.kind == FLAX
        self.x = self.inputs["image"] if self.flax else nhwc(self.inputs["pixel_values"])
        self.plan = make_plan(options(case), *self.x.shape[2:])
        weights = from_google_tokenizer(case.weights, self.plan) if self.flax else case.weights
        self.twin = twin(self.plan, weights)

    def indices(self, name):
        """Recorded indices (B, L) as (B, h, w)."""
        return self.inputs[name].reshape(len(self.x), self.plan.grid, self.plan.grid)


def options(case):
    """Through the importer of published configurations."""
    config = case.about["config"]
    if "vqvae" in config:
        return google_tokenizer(config["vqvae"])
    return open_muse_tokenizer(config, case.kind[1].split("_")[0])[0]


def nhwc(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def nchw(array):
    return array.transpose(0, 3, 1, 2)


@pytest.fixture(params=TWINS)
def run(request, case):
    return Run(TWINS[request.param], case)


@pytest.mark.parametrize("case", cases(*PYTORCH))
def test_stages(run):
    actual = run.twin.forward(run.x)
    run.close(nchw(actual["z"]), "z_pre_quant")
    run.close(actual["distances"].reshape(run.outputs["distances"].shape), "distances")
    np.testing.assert_array_equal(actual["indices"].reshape(len(run.x), -1), run.outputs["indices"])
    run.close(nchw(actual["codes"]), "quantized")
    run.close(nchw(actual["decoded"]), "decoded")
    for name in run.outputs:
        if match := re.fullmatch(r"soft_code_t(\d)(\d+)", name):
            soft = run.twin.forward(run.x, float(".".join(match.groups())))["soft"]
            run.close(soft.reshape(run.outputs[name].shape), name)
    made = run.twin.decode_indices(run.indices("random_ids"))
    run.close(nchw(made), "decode_code_of_random_ids")


@pytest.mark.parametrize("case", cases(*PYTORCH))
def test_training(run):
    actual, grads = run.twin.train(run.x)
    run.close(nchw(actual["made"]), "train_rec")
    run.close(nchw(actual["codes"]), "train_quantized_st")
    run.close(actual["loss.quantiser"], "codebook_loss")
    run.close(actual["loss"], "train_loss")
    for name in run.case.of_prefix("grad:"):
        run.close(grads[name], f"grad:{name}", tolerance="gradients")


@pytest.mark.parametrize("case", cases(*PYTORCH))
def test_adamw_steps(run):
    weights = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in run.twin.weights.items()}
    rate, beta1, beta2, decay, eps = map(
        float,
        run.case.said(r"AdamW step k \(lr (\S+), betas (\S+)/(\S+), wd (\S+) on everything, eps ([\de.-]+)"),
    )
    rule = torch.optim.AdamW(weights.values(), lr=rate, betas=(beta1, beta2), weight_decay=decay, eps=eps)
    steps = sum(name.endswith("_loss_before") for name in run.outputs)
    for step in range(1, steps + 1):
        actual, grads = run.twin.train(run.x)
        run.close(actual["loss"], f"step{step}_loss_before")
        for name, parameter in weights.items():
            parameter.grad = torch.tensor(grads[name])
        rule.step()
        run.twin.weights = {name: parameter.detach().numpy() for name, parameter in weights.items()}
    for name in run.case.of_prefix(f"step{steps}:"):
        run.close(run.twin.weights[name], f"step{steps}:{name}", tolerance="parameters_after_steps")


@pytest.mark.parametrize("case", cases(FLAX))
def test_flax(run):
    config = run.case.about["config"]["vqvae"]
    actual = run.twin.forward(run.x)
    for ours, theirs in (("z", "z_pre_quant"), ("codes", "quantized"), ("decoded", "rec")):
        run.close(actual[ours], theirs)
    run.close(actual["distances"].reshape(run.outputs["distances"].shape), "distances")
    np.testing.assert_array_equal(actual["indices"], run.outputs["indices"])
    actual, grads = run.twin.train(run.x)
    run.close(actual["made"], "train_rec")
    run.close(actual["loss"], "train_total")
    run.close(actual["loss.quantiser"], "quantizer_loss")
    run.close(config["commitment_cost"] * actual["loss.encoder"], "e_latent_loss")
    run.close(config["entropy_loss_ratio"] * actual["loss.entropy"], "entropy_loss")
    for name, expected in from_google_tokenizer(run.case.of_prefix("grad:"), run.plan).items():
        run.close(grads[name], name, expected, "gradients")


@pytest.mark.parametrize("case", cases(*PYTORCH, FLAX))
def test_every_recorded_weight_has_a_place(run):
    table = parameter_table(run.plan)
    assert {name: array.shape for name, array in run.twin.weights.items()} == {
        name: parameter.shape for name, parameter in table.items()
    }


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("case", cases(TAMING))
def test_taming_latents(name, case):
    """The tokenizer of sundae-vqgan, which reads pictures in [-1, 1] but is given [0, 1]."""
    made, config = case.about["constructor"], case.about["constructor"]["ddconfig"]
    chosen = Tokenizer(
        architecture="taming", hidden_channels=config["ch"], channel_mult=tuple(config["ch_mult"]),
        num_res_blocks=config["num_res_blocks"], z_channels=config["z_channels"],
        embedding_dim=made["embed_dim"], num_embeddings=made["n_embed"], legacy_commitment=True,
        attn_resolutions=tuple(config["attn_resolutions"]), pixel_range="signed",
        commitment_cost=case.number(r"legacy=True loss, beta ([\d.]+)"),
    )  # fmt: skip
    twin = TWINS[name](make_plan(chosen, config["resolution"], config["in_channels"]), case.weights)
    x = nhwc(2 * case.inputs["image"] - 1)
    actual = twin.forward(x)
    for ours, theirs in (("z", "pre_quant"), ("codes", "quantized"), ("decoded", "recon")):
        case.close(nchw(actual[ours]), theirs)
    np.testing.assert_array_equal(actual["indices"].reshape(len(x), -1), case.outputs["indices"])
    case.close(nchw(actual["decoded"].clip(-1, 1) + 1) / 2, "decoded_image")
    case.close(twin.train(x)[0]["loss.quantiser"], "emb_loss")
