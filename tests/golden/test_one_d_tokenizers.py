"""Both twins reproduce TiTok and TA-TiTok in every stage of their training, with the gradients of all
losses."""

from functools import cache

import numpy as np
import pytest

from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.families.vqgan.options import Discriminator, Loss
from dioscuri.families.vqgan.plan import make_plan
from dioscuri.families.vqgan.tables import parameter_table
from dioscuri.families.vqgan.training import LECAM_FAKE, LECAM_REAL
from dioscuri.importers.titok import titok_tokenizer
from tests.golden.recorded import cases
from tests.golden.test_maskgit_tokenizers import nchw, nhwc
from tests.support import tokenizers
from tests.support.one_d import TWINS, options_of, quantised

FAMILY = "one_d_tokens"
FIRST, SECOND, SINGLE, TEXT, CODES, PROXY, POSTERIOR = (
    (FAMILY, runner)
    for runner in (
        *("titok_stage1", "titok_stage2", "titok_single_stage"),
        *("tatitok", "titok_vq", "pretrained_tokenizer", "titok_vae"),
    )
)
ADVERSARIAL = [SECOND, SINGLE, TEXT]
KINDS = [FIRST, *ADVERSARIAL, CODES, PROXY, POSTERIOR]


class Run:
    """A case and a twin with its weights."""

    def __init__(self, twin, case):
        self.case, self.inputs, self.outputs, self.close = case, case.inputs, case.outputs, case.close
        loss = case.settings["loss"]
        self.loss = Loss(
            reconstruction=loss.get("reconstruction_loss", "l2"),
            reconstruction_weight=loss.get("reconstruction_weight", 1.0)
            / np.exp(loss.get("logvar_init", 0.0)),
            disc_factor=loss.get("discriminator_factor", 1.0),
            lpips_path="stand-in" if "perceptual_weight" in loss else "",
            perceptual_weight=loss.get("perceptual_weight", 0.0),
            proxy_path="" if case.kind != FIRST else "stand-in",
            codebook_weight=loss["kl_weight" if case.kind == POSTERIOR else "quantizer_weight"],
            disc_weight=loss.get("discriminator_weight", 0.0),
            adaptive_disc_weight=False,
            lecam_weight=loss.get("lecam_regularization_weight", 0.0),
        )
        chosen = (*options(case), discriminator(loss), self.loss)
        weights = {
            name.removeprefix("loss."): array
            for name, array in case.weights.items()
            if not name.startswith("loss.ema_")
        }
        self.twin = twin(options_of(*chosen), weights)
        self.batch = {"image": nhwc(self.inputs["image"])}
        self.buffers = {
            buffer: case.weights[name]
            for buffer, name in (
                (LECAM_REAL, "loss.ema_real_logits_mean"),
                (LECAM_FAKE, "loss.ema_fake_logits_mean"),
            )
            if name in case.weights
        }
        if "text_guidance" in self.inputs:
            self.batch["text"] = self.inputs["text_guidance"]
        if "posterior_noise" in self.inputs:
            self.batch["posterior"] = nhwc(self.inputs["posterior_noise"])
        if "proxy_codes" in self.inputs:
            grid = self.twin.methods.plan.one_d.decoder.grid
            self.batch["proxy_codes"] = self.inputs["proxy_codes"].reshape(-1, grid, grid)

    def close_gradients(self, actual, prefix):
        """Gradients of parameters whose recorded name begins with the prefix, or with no other one."""
        for name in self.case.of_prefix("grad:"):
            if name.startswith("loss.") == (prefix == "loss."):
                self.close(
                    actual[f"grad/{name.removeprefix('loss.')}"], f"grad:{name}", tolerance="gradients"
                )


def options(case):
    """Through the importer of published configurations."""
    sizes = case.settings["sizes"]
    table = {name: tuple(sizes[of][name] for of in ("width", "layers", "heads")) for name in sizes["width"]}
    proxy = case.settings.get("pixel_decoder", {})
    proxy = {name: value for name, value in proxy.items() if name != "num_resolutions"}
    if "channel_mult" in proxy:
        proxy["channel_mult"] = tuple(proxy["channel_mult"])
    return titok_tokenizer(case.about["config"], table, proxy)


def discriminator(loss):
    if "discriminator" not in loss:
        return Discriminator()
    given = loss["discriminator"]
    return Discriminator(
        type="vqgan+", ndf=given["hidden_channels"], num_layers=given["num_stages"],
        blur=given["blur_resample"], blur_taps=given["blur_kernel_size"], legacy_blur_padding=True,
    )  # fmt: skip


@cache
def opened(twin, parameter):
    return Run(TWINS[twin], parameter)


@pytest.fixture(params=TWINS)
def run(request, case):
    return opened(request.param, case)


@pytest.mark.parametrize("case", cases(FIRST, *ADVERSARIAL))
def test_stages(run):
    actual = run.twin.stages(run.batch)
    run.close(nchw(actual["z"]), "encoder_out")
    np.testing.assert_array_equal(actual["indices"][:, None], run.outputs["indices"])
    if "z_quantized" in run.outputs:
        run.close(nchw(actual["codes"]), "z_quantized")
    output = {"logits": "logits", "pixel_logits": "logits", "image": "made"}
    output |= {f"logits_{kind}": f"logits_{kind}" for kind in ("real", "fake")}
    for theirs, ours in output.items():
        if theirs in run.outputs:
            run.close(nchw(actual[ours]), theirs)
    if run.case.kind != SECOND:
        cost = run.twin.hparams.model.commitment_cost
        run.close(cost * actual["loss.encoder"], "loss_commitment")
        run.close(actual["loss.codes"], "loss_codebook")
    else:
        assert run.outputs["loss_commitment"] == run.outputs["loss_codebook"] == 0


@pytest.mark.parametrize("case", cases(FIRST, *ADVERSARIAL))
def test_tokens_decode(run):
    indices = run.outputs["indices"][:, 0]
    name = "decode_tokens_logits" if run.case.kind == FIRST else "decode_tokens_image"
    run.close(nchw(run.twin.decode(indices, run.batch)), name)
    if "image_other_text" in run.outputs:
        other = {**run.batch, "text": run.batch["text"][::-1].copy()}
        run.close(nchw(run.twin.decode(indices, other)), "image_other_text")


@pytest.mark.parametrize("case", cases(FIRST))
def test_first_stage_learns_the_codes_of_another_tokenizer(run):
    actual = run.twin.losses(run.batch, {}, adversarial=False)
    run.close(actual["loss"], "loss_total")
    run.close(actual["reconstruction"], "loss_reconstruction")
    run.close(run.loss.codebook_weight * actual["quantiser"], "loss_quantizer")
    run.close_gradients(actual, "model")


@pytest.mark.parametrize("case", cases(*ADVERSARIAL))
def test_adversarial_training(run):
    off = run.twin.losses(run.batch, run.buffers, adversarial=False)
    on = run.twin.losses(run.batch, run.buffers, adversarial=True)
    critic = run.twin.critic(run.batch, run.buffers)
    run.close(on["loss"] - critic["loss"], "gen_on_total")
    run.close(off["loss"], "gen_off_total")
    for tag, actual in (("off", off), ("on", on)):
        run.close(run.loss.reconstruction_weight * actual["reconstruction"], f"gen_{tag}_reconstruction_loss")
        run.close(run.loss.perceptual_weight * actual["perceptual"], f"gen_{tag}_perceptual_loss")
        run.close(run.loss.codebook_weight * actual["quantiser"], f"gen_{tag}_quantizer_loss")
        run.close(actual["generator"], f"gen_{tag}_gan_loss")
        weight = run.loss.disc_factor * run.loss.disc_weight
        run.close(weight * actual["generator"], f"gen_{tag}_weighted_gan_loss")
    run.close(critic["loss"], "disc_total")
    run.close(run.loss.lecam_weight * critic["lecam"], "disc_lecam")
    for kind, name in (("real", LECAM_REAL), ("fake", LECAM_FAKE)):
        run.close(critic[f"logits_{kind}"], f"disc_logits_{kind}_mean")
        run.close(critic[f"new.{name}"], f"ema_{kind}_logits_mean_after")
    run.close_gradients(on, "model")
    run.close_gradients(critic, "loss.")


@pytest.mark.parametrize("case", cases(POSTERIOR))
def test_gaussian_posterior(run):
    """Without codes; the discriminator has not begun."""
    actual, D = run.twin.stages(run.batch), run.twin.hparams.model.embedding_dim
    z = nchw(actual["z"])
    run.close(z, "parameters")
    run.close(z[:, :D], "mean")
    run.close(z[:, D:].clip(-30, 20), "logvar")
    run.close(nchw(actual["codes"]), "sample")
    run.close(nchw(actual["made"]), "image")
    run.close(nchw(run.twin.mode(run.batch)), "image_of_mode")
    losses = run.twin.losses(run.batch, {}, adversarial=False)
    run.close(losses["quantiser"], "kl", run.outputs["kl"].sum() / len(z))
    run.close(losses["loss"], "loss_total")
    run.close(run.loss.reconstruction_weight * losses["reconstruction"], "loss_reconstruction")
    run.close(run.loss.codebook_weight * losses["quantiser"], "loss_kl")
    run.close(run.loss.perceptual_weight * losses["perceptual"], "loss_perceptual")
    run.close_gradients(losses, "model")


@pytest.mark.parametrize("case", cases(FIRST, *ADVERSARIAL, POSTERIOR))
def test_every_recorded_weight_has_a_place(case):
    table = parameter_table(make_plan(options(case)[0], options(case)[1]["target_res"], 3))
    recorded = {name: a.shape for name, a in case.weights.items() if not name.startswith("loss.")}
    assert recorded == {name: parameter.shape for name, parameter in table.items()}


@pytest.mark.parametrize("twin", tokenizers.TWINS)
@pytest.mark.parametrize("case", cases(PROXY))
def test_tokenizer_of_the_first_stage(twin, case):
    """MaskGIT's tokenizer, whose codes the first stage learns."""
    given = case.settings["pixel_decoder"]
    chosen = Tokenizer(
        architecture="maskgit", hidden_channels=given["hidden_channels"],
        channel_mult=tuple(given["channel_mult"]), num_res_blocks=given["num_res_blocks"],
        z_channels=given["z_channels"], embedding_dim=given["z_channels"], legacy_shortcut=True,
        num_embeddings=len(case.weights["quantize.embedding.weight"]),
    )  # fmt: skip
    x = nhwc(case.inputs["image"])
    network = tokenizers.TWINS[twin](make_plan(chosen, *x.shape[2:]), case.weights)
    actual = network.forward(x)
    case.close(nchw(actual["z"]), "encoder_out")
    np.testing.assert_array_equal(actual["indices"].reshape(len(x), -1), case.outputs["codes"])
    for name, indices in (
        ("image", actual["indices"]),
        ("image_of_argmax", case.inputs["stage1_logits"].argmax(1)),
    ):
        case.close(nchw(network.decode_indices(indices).clip(0, 1)), name)


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize("case", cases(CODES))
def test_clustered_codes(twin, case):
    """Several batches in training, then the first one in evaluation."""
    config = case.about["config"]
    codebook, embed_prob = case.weights["embedding.weight"], case.weights["embed_prob"]
    chosen = Tokenizer(
        architecture="titok", latent_tokens=case.inputs["z_0"].shape[-1], clustered=config["clustering_vq"],
        num_embeddings=config["codebook_size"], embedding_dim=config["token_size"],
        commitment_cost=config["commitment_cost"], l2_normalised=config["use_l2_norm"],
    )  # fmt: skip
    for call in range(case.settings["calls"]):
        z, upstream = (nhwc(case.inputs[f"{name}_{call}"]) for name in ("z", "upstream"))
        actual = quantised(twin, chosen, codebook, z, upstream, embed_prob)
        case.close(nchw(actual["codes"]), f"z_quantized_{call}")
        np.testing.assert_array_equal(actual["indices"], case.outputs[f"indices_{call}"])
        case.close(actual["quantiser"], f"loss_{call}")
        case.close(chosen.commitment_cost * actual["encoder"], f"commitment_{call}")
        case.close(actual["of_codes"], f"codebook_loss_{call}")
        case.close(nchw(actual["grad/z"]), f"grad:z_{call}", tolerance="gradients")
        case.close(actual["grad/codebook"], f"grad:embedding_{call}", tolerance="gradients")
        codebook, embed_prob = codebook + actual["code_shift"], actual["embed_prob"]
        case.close(codebook, f"codebook_after_{call}")
        case.close(embed_prob, f"embed_prob_after_{call}")
    last = quantised(twin, chosen, codebook, nhwc(case.inputs["z_0"]))
    case.close(nchw(last["codes"]), "eval_z_quantized")
    np.testing.assert_array_equal(last["indices"], case.outputs["eval_indices"])
