"""Tests of recorded cases read every number from the case: changed numbers are used, wrong ones fail."""

import json
from dataclasses import replace
from math import log

import numpy as np
import pytest
from safetensors.numpy import save_file

from dioscuri.importers.efficient_vdvae_names import mixture_order
from dioscuri.schedules import mask_ratio
from tests.golden import (
    test_efficient_vdvae,
    test_efficient_vdvae_training,
    test_maskgit_samplers,
    test_maskgit_tokenizers,
    test_maskgit_training,
    test_maskgit_transformers,
    test_metroplex,
    test_sundae_training,
)
from tests.golden.recorded import ROOTS, Case
from tests.golden.recorded_metroplex import Recorded as RecordedMetroplex
from tests.golden.recorded_transformers import opened
from tests.golden.recorded_vae import Recorded as RecordedVAE
from tests.support import models, tokenizers, transformers
from tests.support.engines import engine_of

CLASSES, TEXT, UVIT, GOOGLE = (
    f"maskgit/{name}"
    for name in (
        "maskgit_transformer_class", "maskgit_transformer_text_cfg", "uvit_v2", "flax_maskgit_transformer"
    )
)  # fmt: skip


class Copy:
    """A case that can be changed before it is written to a new folder."""

    def __init__(self, path):
        original = Case(ROOTS[0] / path)
        self.path, self.about = path, json.loads(json.dumps(original.about))
        self.weights, self.inputs, self.outputs = original.weights, original.inputs, original.outputs
        self.files = {
            file.name: file.read_bytes() for file in original.folder.iterdir() if file.suffix == ".cfg"
        }

    def set(self, path, value):
        """An entry of `case.json`, such as settings.partial.temperature."""
        *folders, leaf = path.split(".")
        node = self.about
        for folder in folders:
            node = node[folder]
        assert node[leaf] != value
        node[leaf] = value
        return self

    def say(self, old, new):
        """Change a number in the sentences of `case.json`."""
        text = json.dumps(self.about)
        assert old in text
        self.about = json.loads(text.replace(old, new))
        return self

    def write(self, folder):
        """The changed case."""
        (folder / "case.json").write_text(json.dumps(self.about))
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        save_file(self.weights, folder / self.about.get("weights", {}).get("file", "weights.safetensors"))
        for name in ("inputs", "outputs"):
            np.savez(folder / f"{name}.npz", **getattr(self, name))
        return Case(folder)


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


def vae(case, folder):
    recorded = RecordedVAE(case)
    test_efficient_vdvae.test_forward_losses_and_gradients(
        (recorded, models.Torch(recorded.hparams, recorded.weights))
    )


def vae_masked(case, folder):
    recorded = RecordedVAE(case)
    test_efficient_vdvae.test_masked_pass((recorded, models.Torch(recorded.hparams, recorded.weights)))


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


@pytest.mark.parametrize(
    ("path", "twin", "column"),
    [
        ("hierarchical_vae/torch_checkpoint", "torch", (1, 0, 1)),
        ("hierarchical_vae/torch_checkpoint", "jax", (1, 0, 1)),
        ("hierarchical_vae/jax_mol8", "torch", (1, 1, 2)),
    ],
)
def test_skipped_updates_are_those_of_the_case(tmp_path, path, twin, column):
    """The first and third of three steps are skipped; the second must be as if it were alone."""
    copy = Copy(path)
    recorded = RecordedVAE(copy.write(tmp_path))
    norms = [step_alone(recorded, recorded.weights, t, 0)[1]["grad_norm"] for t in range(3)]
    low, middle, high = np.argsort(norms)
    reorder_steps(copy, (middle, low, high))
    write_threshold(copy, (norms[low] + norms[middle]) / 2)
    recorded = RecordedVAE(copy.write(tmp_path))
    # The JAX program counts completed steps: its second step is step 0, its third step 1.
    numbers = (0, 0, 1) if recorded.is_flax else (0, 1, 2)
    _, first = step_alone(recorded, recorded.weights, 0, numbers[0])
    state, second = step_alone(recorded, recorded.weights, 1, numbers[1])
    _, third = step_alone(recorded, state["model"], 2, numbers[2])
    assert third["grad_norm"] > (norms[low] + norms[middle]) / 2
    for t, metrics in enumerate((first, second, third)):
        copy.outputs[f"train_{t}"] = np.array([RATE, *logged(recorded, metrics), column[t]])
    for group, prefix in (("model", "params_after/"), ("ema", "ema_after/")):
        copy.outputs |= original_names(recorded, state[group], prefix)
    copy.outputs = {name: array for name, array in copy.outputs.items() if "opt_state" not in name}
    test_efficient_vdvae_training.test_original_steps(copy.write(tmp_path), twin)


RATE = 1e-4


def step_alone(recorded, weights, t, step):
    """State and metrics of a single update from given weights, without skipping, in float64."""
    words = {"gradient_skip": False}
    hparams = replace(
        recorded.hparams,
        optimizer=replace(recorded.hparams.optimizer, **words),
        train=replace(recorded.hparams.train, precision="float64"),
    )
    engine = engine_of("torch", hparams)
    engine.state_from_numpy({"model": weights})
    noise = recorded.latent_noise(f"train{t}", prior=False, posterior=True)
    scalars = {"learning_rate": RATE, **recorded.scalars(step)}
    engine.train_step({"image": recorded.pixels_of(f"train_{t}")}, step, scalars, noise)
    return engine.state_to_numpy(), engine.fetch_metrics()


def logged(recorded, metrics):
    """Columns of a step: reconstruction and divergence in bits per value, gradient norm."""
    bits = recorded.plan.image_dims * log(2)
    kl = sum(metrics[f"kl.{group}"] for group in recorded.groups)
    return metrics["reconstruction"] / bits, kl / bits, metrics["grad_norm"]


def reorder_steps(copy, order):
    """Give step `order[t]` the pictures and noise of step t."""
    inputs = dict(copy.inputs)
    for to, origin in enumerate(order):
        for name, array in inputs.items():
            if name == f"x_{origin}":
                copy.inputs[f"x_{to}"] = array
            elif name.startswith(f"eps_train{origin}_"):
                copy.inputs[name.replace(f"train{origin}", f"train{to}")] = array


def write_threshold(copy, threshold):
    """Skip updates from this norm on."""
    lines = copy.files["hparams.cfg"].decode().splitlines()
    options = {"gradient_skip": True, "gradient_skip_threshold": threshold}
    lines = [
        f"{name} = {options[name]}" if (name := line.partition("=")[0].strip()) in options else line
        for line in lines
    ]
    copy.files["hparams.cfg"] = "\n".join(lines).encode()


def original_names(recorded, state, prefix):
    """Canonical tensors as outputs under their original names, in their layout."""
    return {
        prefix + (key.flax if recorded.is_flax else key.torch): np.float32(
            to_flax_layout(key, state[key.name], recorded.plan) if recorded.is_flax else state[key.name]
        )
        for key in recorded.keys
        if key.name in state
    }


def to_flax_layout(key, array, plan):
    """Canonical tensor -> that of the JAX program."""
    array = array[np.argsort(mixture_order(plan))] if key.mixture_output else array
    if key.kind == "bias":
        return array
    return np.ascontiguousarray(array.transpose((2, 3, 1, 0) if key.kind == "kernel" else (0, 2, 3, 1)))


@pytest.mark.parametrize("logged_in", ["nats", "bits"])
def test_binarised_digits_of_the_jax_program_are_read_in_either_unit(tmp_path, logged_in):
    """The PyTorch program's case, rewritten as the JAX program's: both compute the same."""
    copy = Copy("hierarchical_vae/torch_bernoulli")
    recorded = RecordedVAE(copy.write(tmp_path))
    as_flax(copy, recorded, recorded.plan.image_dims * log(2) if logged_in == "nats" else 1.0)
    case = copy.write(tmp_path)
    vae(case, tmp_path)
    vae_masked(case, tmp_path)
    wrong = copy.outputs["fwd_kl_div_metric"]
    copy.outputs["fwd_kl_div_metric"] = 1.01 * wrong
    with pytest.raises(AssertionError, match="fwd_kl_div_metric"):
        vae(copy.write(tmp_path), tmp_path)


def as_flax(copy, recorded, unit):
    """Rewrite a case of binarised digits in the JAX program's names, layouts and units of divergences."""
    copy.about["runner"] = "efficient_vdvae_jax"
    names = {key.torch: key.flax for key in recorded.keys}
    copy.about["grad_norm_order"] = [names[name] for name in copy.about["grad_norm_order"]]
    copy.weights = {
        key.flax: to_flax_layout(key, copy.weights[key.torch], recorded.plan) for key in recorded.keys
    }
    copy.inputs = {name: channels_last(array) for name, array in copy.inputs.items()}
    outputs = {name: channels_last(copy.outputs[name]) for name in copy.outputs if "/" not in name}
    for key in recorded.keys:
        if (name := f"grad/{key.torch}") in copy.outputs:
            outputs[f"grad/{key.flax}"] = to_flax_layout(key, copy.outputs[name], recorded.plan)
    kl, average = outputs["fwd_kl"].T
    outputs |= {"fwd_kl": kl, "fwd_avg_kl": average * unit}
    outputs["fwd_kl_div_metric"] = outputs["fwd_gamma_kl"] / log(2) * unit
    outputs["masked_kl_metric"] = outputs.pop("masked_kl_metric_masked")
    copy.outputs = {name: array for name, array in outputs.items() if name not in NOT_IN_FLAX}


NOT_IN_FLAX = ("fwd64_total_loss", "no_grad_params", "masked_outputs")
"""Outputs that the JAX program's cases lack, or have for pictures that are read differently."""


def channels_last(array):
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


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
