"""Tests of recorded cases read every number from the case: changed numbers are used, wrong ones fail."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dioscuri.schedules import mask_ratio
from tests.golden import (
    test_efficient_vdvae_training,
    test_maskgit_samplers,
    test_maskgit_tokenizers,
    test_maskgit_training,
    test_maskgit_transformers,
    test_metroplex,
    test_sundae_training,
)
from tests.golden.changed_cases import Copy, vae, vae_masked
from tests.golden.recorded_metroplex import Recorded as RecordedMetroplex
from tests.golden.recorded_transformers import opened
from tests.support import models, tokenizers, transformers
from tests.support.engines import engine_of

CLASSES, TEXT, UVIT, GOOGLE = (
    f"maskgit/{name}"
    for name in (
        "maskgit_transformer_class", "maskgit_transformer_text_cfg", "uvit_v2", "flax_maskgit_transformer"
    )
)  # fmt: skip


TORCH = transformers.Torch


def open_muse(case, folder):
    test_maskgit_transformers.test_open_muse(TORCH, case)


def uvit(case, folder):
    test_maskgit_transformers.test_uvit(TORCH, case)


def google(case, folder):
    test_maskgit_transformers.test_google(TORCH, case)


def decode(case, folder):
    test_maskgit_samplers.test_google(TORCH, case)


def generate2(tag):
    return lambda case, _: test_maskgit_samplers.test_open_muse(TORCH, case, tag)


def generate(case, folder):
    test_maskgit_samplers.test_open_muse_by_scores(TORCH, case, "gen1")


def guided(case, folder):
    test_maskgit_transformers.test_passes_under_guidance(TORCH, case)


def halton(tag):
    return lambda case, _: test_maskgit_samplers.test_halton(TORCH, case, tag)


def confidence(case, folder):
    test_maskgit_samplers.test_confidence_sampler_of_halton(TORCH, case)


def lucidrains(case, folder):
    test_maskgit_samplers.test_lucidrains(TORCH, case, "nocritic")


def adamw(case, folder):
    test_maskgit_training.test_training_steps("torch", case)


def tokenizer(case, folder):
    test_maskgit_tokenizers.test_training(test_maskgit_tokenizers.Run(tokenizers.Torch, case))


def flax_tokenizer(case, folder):
    test_maskgit_tokenizers.test_flax(test_maskgit_tokenizers.Run(tokenizers.Torch, case))


def latents(case, folder):
    test_maskgit_tokenizers.test_taming_latents("torch", case)


def later(case, folder):
    recorded = RecordedMetroplex(case, folder)
    test_metroplex.test_later_program((recorded, recorded.use(models.Torch)))


def metroplex_samples(case, folder):
    recorded = RecordedMetroplex(case, folder)
    test_metroplex.test_sampling((recorded, recorded.use(models.Torch)))


def metroplex_steps(case, folder):
    test_metroplex.test_original_steps(case, "torch", folder)


def vae_steps(case, folder):
    test_efficient_vdvae_training.test_original_steps(case, "torch")


def sundae_steps(case, folder):
    test_sundae_training.test_optimiser_steps("torch", case)


STEPS = "sundae/train_unroll3_class_accum_clip"
GENERATE2 = "settings.generate2.{}.{}".format
CHANGES = [
    (CLASSES, open_muse, "settings.label_smoothing.loss_ls0", 0.1),
    (CLASSES, open_muse, "settings.label_smoothing.loss_ls01", 0.2),
    (CLASSES, generate2("gen2"), GENERATE2("gen2", "temperature"), 1.0),
    (CLASSES, generate2("inpaint"), GENERATE2("inpaint", "timesteps"), 3),
    (CLASSES, generate2("inpaint"), GENERATE2("inpaint", "mask_schedule"), "square"),
    (CLASSES, generate, "settings.generate.gen1.temperature", 0.2),
    (CLASSES, generate, "settings.generate.gen1.timesteps", 4),
    (CLASSES, generate, "settings.generate.gen1.topk_filter_thres", 0.95),
    (CLASSES, adamw, "train.n", 2),
    (CLASSES, adamw, "training_steps", "label smoothing 0.2"),
    (TEXT, open_muse, "settings.cond_dropout_keep", 0.0),
    (TEXT, generate2("gen2"), GENERATE2("gen2", "guidance_scale"), 9.0),
    (TEXT, generate2("gen2"), GENERATE2("gen2", "uncond"), "negative_embeds"),
    (TEXT, generate2("gen2neg"), GENERATE2("gen2neg", "uncond"), "zeros"),
    (TEXT, generate2("gen2neg"), GENERATE2("gen2neg", "mask_schedule"), "linear"),
    (TEXT, guided, GENERATE2("gen2neg", "uncond"), "zeros"),
    (UVIT, uvit, "settings.label_smoothing.loss_all_tokens_weighted_ls01", 0.0),
    (UVIT, uvit, "settings.label_smoothing.loss_ls01", 0.0),
    (UVIT, generate2("gen2"), GENERATE2("gen2", "temperature"), [1.0, 0.0]),
    (UVIT, generate2("gen2neg"), GENERATE2("gen2neg", "guidance_schedule"), None),
    (UVIT, generate2("gen2neg"), GENERATE2("gen2neg", "guidance_schedule"), "linear"),
    (GOOGLE, decode, "decode.start_iter", 1),
    (GOOGLE, decode, "decode.choice_temperature", 1.0),
    (GOOGLE, decode, "decode.mask_scheduling_method", "linear"),
    ("maskgit/maskgit_vqgan", tokenizer, "config.commitment_cost", 0.5),
    ("maskgit/flax_maskgit_tokenizer", flax_tokenizer, "config.vqvae.commitment_cost", 0.5),
    ("maskgit/flax_maskgit_tokenizer", flax_tokenizer, "config.vqvae.entropy_loss_ratio", 0.2),
    ("metroplex/jax_vdvae_attn", later, "settings.uncond_temperature", 0.7),
    ("metroplex/jax_vdvae_attn", later, "settings.partial.first_blocks", 2),
    ("metroplex/jax_vdvae_attn", later, "settings.partial.temperature", 0.3),
    ("metroplex/tf_skip", metroplex_samples, "sample_temperature", 0.7),
    ("metroplex/tf_skip", metroplex_steps, "json_config.skip_threshold", 10.0),
    ("hierarchical_vae/torch_logstd5", vae, "fwd_step_n", 5),
    ("hierarchical_vae/torch_logstd5", vae, "pass_inputs.fwd", "x_2"),
    ("hierarchical_vae/torch_logstd5", vae, "settings.units.fwd_recon_metric", "nats/image"),
    ("hierarchical_vae/torch_logstd5", vae_masked, "pass_inputs.masked", "x_2"),
    ("hierarchical_vae/torch_checkpoint", vae_steps, "pass_inputs.train_<t>", "x_3"),
    (STEPS, sundae_steps, "constructor.trainer.mini_batch_size", 1),
    (STEPS, sundae_steps, "constructor.unroll_steps", 2),
]
SENTENCES = [
    (GOOGLE, google, "label_smoothing=.1", "label_smoothing=.2"),
    (CLASSES, adamw, "wd .01", "wd .9"),
    (CLASSES, adamw, "warmup 2", "warmup 3"),
    (TEXT, adamw, "betas (.9,.98)", "betas (.1,.98)"),
    ("maskgit/halton_maskgit", halton("plain"), "plain: w 2", "plain: w 0"),
    ("maskgit/halton_maskgit", halton("rand_warm"), "temp_warmup 1", "temp_warmup 3"),
    ("maskgit/halton_maskgit", halton("rand_warm"), "linspace(.9,1.4)**2", "linspace(.9,1.4)**9"),
    ("maskgit/halton_maskgit", confidence, "log p + 4.5*", "log p + 0.5*"),
    ("maskgit/lucidrains_token_critic", lucidrains, "cond_scale 2.5", "cond_scale 9.5"),
    ("maskgit/lucidrains_token_critic", lucidrains, "temperature 1.1*", "temperature 9.1*"),
    ("sundae/vqgan_taming_tiny", latents, "beta 0.25", "beta 0.5"),
    (STEPS, sundae_steps, "AdamW(lr=0.001)", "AdamW(lr=0.01)"),
]


def labelled(changes):
    return [
        pytest.param(*change, id=f"{change[0].partition('/')[2]}: {change[2]} {change[3]}")
        for change in changes
    ]


@pytest.mark.parametrize(("path", "check", "entry", "value"), labelled(CHANGES))
def test_another_setting_fails(tmp_path, path, check, entry, value):
    with pytest.raises((AssertionError, ValueError)):
        check(Copy(path).set(entry, value).write(tmp_path), tmp_path)


@pytest.mark.parametrize(("path", "check", "old", "new"), labelled(SENTENCES))
def test_another_sentence_fails(tmp_path, path, check, old, new):
    copy = Copy(path).say(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    with pytest.raises((AssertionError, ValueError)):
        check(copy.write(tmp_path), tmp_path)


@pytest.mark.parametrize(("twin", "first"), [("torch", 2), ("torch", 5), ("jax", 2)])
def test_decoding_begins_where_the_case_says(tmp_path, twin, first):
    """The expected tokens come from MaskGIT's decoding, written out below."""
    copy = Copy(GOOGLE).set("decode.start_iter", first)
    run = opened(TORCH, copy.write(tmp_path))
    steps, given = copy.about["decode"]["num_iter"], copy.inputs["decode_start"]
    for name in ("gumbel_tokens", "gumbel_select"):
        copy.inputs[name] = copy.inputs[name][: steps - first]
    inputs, results = decoded(run, copy, first)
    copy.outputs |= {"step_input_ids": inputs, "final_seqs": np.stack([given] * first + results, 1)}
    test_maskgit_samplers.test_google(transformers.TWINS[twin], copy.write(tmp_path))


def decoded(run, copy, first):
    """Network inputs and sampled tokens (T, B, L) of the steps taken."""
    decode, mask, codes = copy.about["decode"], copy.about["mask_token_id"], run.plan.codebook_size
    ids, inputs, results = copy.inputs["decode_start"], [], []
    at_first = (ids == mask).sum(1)
    for k, step in enumerate(range(first, decode["num_iter"])):
        inputs.append(ids)
        unknown, ratio = ids == mask, (step + 1) / decode["num_iter"]
        network_ids = np.where(unknown, run.plan.mask_id, ids)[:, 1:]
        logits = run.twin.forward(network_ids, {"label": ids[:, 0] - codes})["sequence_logits"][..., :codes]
        drawn = np.where(unknown, (logits + copy.inputs["gumbel_tokens"][k]).argmax(-1), ids)
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        log_p = np.take_along_axis(log_p, np.where(unknown, drawn, 0)[..., None], -1)[..., 0]
        noise = decode["choice_temperature"] * (1 - ratio) * copy.inputs["gumbel_select"][k]
        confidence = np.where(unknown, log_p, np.inf) + noise
        left = np.floor(at_first * mask_ratio("cosine", np.float32(ratio))).astype(int)
        left = np.maximum(np.minimum(left, unknown.sum(1) - 1), 1)
        cut = np.take_along_axis(np.sort(confidence, 1), left[:, None], 1)
        results.append(drawn)
        ids = np.where(confidence < cut, mask, drawn)
    return np.stack(inputs), results


def test_a_network_has_as_many_layers_as_the_case_says(tmp_path):
    """The expected numbers are computed in float64."""
    copy = Copy(UVIT).set("config.num_hidden_layers", 1)
    copy.weights = {name: array for name, array in copy.weights.items() if "layers.1." not in name}
    exact = opened(lambda *given: TORCH(*given, "float64"), copy.write(tmp_path))
    del copy.outputs["hs_layer1"]
    found = exact.twin.forward(exact.ids, exact.condition)
    for name in ("hs_embed", "down_out", "up_out"):
        found[name] = found[name].transpose(0, 3, 1, 2)
    smoothing = copy.about["settings"]["label_smoothing"]
    for name in smoothing:
        targets = test_maskgit_transformers.targets_of(exact, name)
        found[name], grad = test_maskgit_transformers.cross_entropy(
            found["sequence_logits"], *targets, smoothing[name]
        )
        if name == copy.about["loss_for_grads"]:
            grads = exact.twin.pull_back(exact.ids, exact.condition, {"sequence_logits": grad})
    found |= {f"grad:{name}": grad for name, grad in grads.items()}
    copy.outputs = {name: np.asarray(found[name], np.float32) for name in copy.outputs if name in found}
    uvit(copy.write(tmp_path), tmp_path)


@pytest.mark.parametrize("size", [3, 5])
def test_batches_that_devices_cannot_share_evenly(tmp_path, size):
    """Two devices and an odd number of pictures: the expected numbers come from one device in float64."""
    copy = Copy("metroplex/tf_skip").set("json_config.skip_threshold", 1e6)
    rng = np.random.default_rng(size)
    for name, array in copy.inputs.items():
        shape = (size, *array.shape[1:])
        new = rng.normal(size=shape) if "eps" in name else rng.integers(0, 256, shape)
        copy.inputs[name] = new.astype(array.dtype)
    recorded = RecordedMetroplex(copy.write(tmp_path), tmp_path)
    recorded.use(models.Torch)
    engine = engine_of(
        "torch", replace(recorded.hparams, train=replace(recorded.hparams.train, precision="float64"))
    )
    engine.state_from_numpy({"model": recorded.weights})
    for expected in copy.about["optimizer_steps"]:
        scalars = {**test_metroplex.SCALARS, "learning_rate": expected["lr"]}
        noise = recorded.noise("eps", "posterior")
        engine.train_step({"image": copy.inputs["image_uint8"]}, expected["step"], scalars, noise)
        metrics = engine.fetch_metrics()
        expected |= {"elbo": metrics["loss"], "grad_norm": metrics["grad_norm"], "skipped_updates": 0.0}
    after = engine.state_to_numpy()["model"]
    names = [recorded.name(original) for original in copy.about["param_names"]]
    copy.outputs = {
        "after_l2": np.array([np.linalg.norm(after[name]) for name in names]),
        "delta_l2": np.array([np.linalg.norm(after[name] - recorded.weights[name]) for name in names]),
    }
    test_metroplex.test_original_steps(copy.write(tmp_path), "jax", tmp_path)
