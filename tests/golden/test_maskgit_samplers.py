"""Both twins sample the tokens that the original programs sampled, step by step, from the recorded noise."""

import re
from math import ceil

import numpy as np
import pytest

from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.training import embedding_shape
from dioscuri.families.token_models.masking_options import Sampling
from tests.golden.recorded import cases, padded, tagged_cases
from tests.golden.recorded_transformers import GOOGLE, HALTON, LUCIDRAINS, OPEN_MUSE, UVIT, null_of, opened
from tests.support.samplers import sample
from tests.support.transformers import TWINS

LAST_TEMPERATURE = 0.01
"""Final temperature of the U-ViT's `generate2` if a single number is given."""


@pytest.fixture(params=TWINS)
def kind(request):
    return TWINS[request.param]


def gumbel(*, exponential=None, uniform=None):
    """Gumbel noise of other recorded draws: argmax(p / q) is argmax(log p - log q)."""
    if uniform is not None:
        uniform = np.maximum(uniform, np.float32(1e-20))
        exponential = np.maximum(-np.log(uniform), np.float32(1e-20))
    return -np.log(exponential)


def all_masked(run):
    return np.full((len(run.ids), run.plan.n_tokens), run.plan.mask_id)


def generate2_options(case, call):
    """Options of a call of open-muse's `generate2`, whose guidance scale counts from 0, ours from 1."""
    temperature = call["temperature"]
    if isinstance(temperature, list):
        temperature = tuple(temperature)
    elif case.kind == UVIT:
        temperature = (temperature, LAST_TEMPERATURE)
    guidance = call.get("guidance_scale") or 1.0
    return Sampling(
        steps=call["timesteps"],
        temperature=temperature,
        sampling_schedule=call["mask_schedule"],
        guidance_scale=guidance - 1,
        guidance_schedule=call.get("guidance_schedule") or "constant",
        legacy_temperature=case.kind == OPEN_MUSE,
        legacy_mask_count=True,
        legacy_known_confidence=True,
        legacy_guidance=True,
    )


@pytest.mark.parametrize(("case", "tag"), tagged_cases("(.+)_mask_len", OPEN_MUSE, UVIT))
def test_open_muse(kind, case, tag):
    """Inputs, choices, temperatures and result of `generate2`."""
    run, call = opened(kind, case), case.settings["generate2"][tag]
    options, start = generate2_options(case, call), run.inputs.get(f"{tag}_input_ids", all_masked(run))
    noise = {
        "tokens": gumbel(exponential=run.inputs[f"{tag}_multinomial_exponential"]),
        "confidence": gumbel(uniform=run.inputs[f"{tag}_gumbel_uniform"]),
    }
    null = null_of(run, call["uncond"]) if call.get("guidance_scale") and "text" in run.condition else None
    actual = sample(run.twin, start, noise, options, run.condition, null)
    B, L = start.shape
    np.testing.assert_array_equal(actual.inputs, run.outputs[f"{tag}_model_input_ids"][:, :B, -L:])
    np.testing.assert_array_equal(actual.inputs[1:] == run.plan.mask_id, run.outputs[f"{tag}_masking"][:-1])
    np.testing.assert_array_equal(actual.tokens, run.outputs[f"{tag}_tokens"])
    steps, unknown = make_steps(options, L), (actual.inputs == run.plan.mask_id).sum(-1)
    counts = np.maximum(np.minimum(unknown - 1, steps.masked[:, unknown[0]]), 1)
    np.testing.assert_array_equal(counts, run.outputs[f"{tag}_mask_len"][..., 0])
    np.testing.assert_allclose(steps.temperature, run.outputs[f"{tag}_temperature"], rtol=1e-6)


@pytest.mark.parametrize(("case", "tag"), tagged_cases("(gen1)_tokens", OPEN_MUSE))
def test_open_muse_by_scores(kind, case, tag):
    """The older `generate`."""
    run, call = opened(kind, case), case.settings["generate"][tag]
    options = Sampling(
        sampler="scores",
        steps=call["timesteps"],
        temperature=call["temperature"],
        top_k=ceil((1 - call["topk_filter_thres"]) * run.plan.codebook_size),
        legacy_scores=True,
    )
    noise = {"tokens": gumbel(uniform=run.inputs[f"{tag}_gumbel_uniform"])}
    actual = sample(run.twin, all_masked(run), noise, options, run.condition)
    np.testing.assert_array_equal(actual.inputs, run.outputs[f"{tag}_model_input_ids"][..., 1:])
    np.testing.assert_array_equal(actual.tokens, run.outputs[f"{tag}_tokens"])


@pytest.mark.parametrize("case", cases(GOOGLE))
def test_google(kind, case):
    """Noise has rows for the steps taken, results for all steps."""
    run, decode = opened(kind, case), case.about["decode"]
    steps, first, mask = decode["num_iter"], decode["start_iter"], case.about["mask_token_id"]
    options = Sampling(
        steps=steps,
        start_step=first,
        temperature=decode["choice_temperature"],
        sampling_schedule=decode["mask_scheduling_method"],
    )
    given = run.inputs["decode_start"]
    condition = {"label": given[:, 0] - run.plan.codebook_size}
    start = np.where(given[:, 1:] == mask, run.plan.mask_id, given[:, 1:])
    names = {"tokens": "gumbel_tokens", "confidence": "gumbel_select"}
    noise = {ours: padded(run.inputs[name][:, :, 1:], first, steps) for ours, name in names.items()}
    actual = sample(run.twin, start, noise, options, condition)
    recorded = run.outputs["step_input_ids"][..., 1:]
    recorded = np.where(recorded == mask, run.plan.mask_id, recorded)[first - steps :]
    np.testing.assert_array_equal(actual.inputs, recorded)
    results = run.outputs["final_seqs"].transpose(1, 0, 2)
    np.testing.assert_array_equal(actual.drawn, results[first:, :, 1:])
    np.testing.assert_array_equal(results[:first], np.broadcast_to(given, results[:first].shape))


def halton_options(case, tag):
    """Options of a call of Halton-MaskGIT's sampler, listed in a sentence."""
    (listed,) = case.said(rf"\b{tag}: (w .*?)(?:\. |$)")
    words = dict.fromkeys(("w", "top_k", "temp_warmup"), 0.0)
    for word in listed.split(", "):
        name, _, value = word.partition(" ")
        if name in words:
            words[name] = float(value.split()[0])
    options = {"guidance_scale": words["w"], "top_k": int(words["top_k"])}
    if match := re.search(r"temp linspace\(([\d.]+),([\d.]+)\)(?:\*\*([\d.]+))?", listed):
        low, high, power = match.groups()
        options |= {"logit_scale": (float(low), float(high)), "logit_scale_power": float(power or 1)}
    return options | {"logit_scale_warmup": int(words["temp_warmup"])}


@pytest.mark.parametrize(("case", "tag"), tagged_cases("halton:(.+):final_code", HALTON))
def test_halton(kind, case, tag):
    run, chosen = opened(kind, case), halton_options(case, tag)
    exponential = run.inputs[f"halton:{tag}:exponential"]
    options = Sampling(
        sampler="halton", steps=len(exponential), sampling_schedule="arccos", legacy_mask_token=True, **chosen
    )
    condition, null = {"label": run.inputs["y"]}, {"label": np.array([run.plan.null_label])}
    noise = {"ranked" if options.top_k else "tokens": gumbel(exponential=exponential)}
    offsets = run.inputs.get(f"halton:{tag}:roll")
    start = all_masked(run)
    actual = sample(run.twin, start, noise, options, condition, null, offsets=offsets, every_step=True)
    pred, masks = (flat(run.outputs[f"halton:{tag}:{name}"]) for name in ("pred_codes", "masks"))
    np.testing.assert_array_equal(actual.drawn, pred)
    ids = start
    for k, written in enumerate(masks):
        np.testing.assert_array_equal(actual.inputs[k], ids)
        ids = np.where(written > 0, pred[k], ids)
    final = run.outputs[f"halton:{tag}:final_code"]
    np.testing.assert_array_equal(actual.tokens, final.reshape(len(final), -1))


@pytest.mark.parametrize("case", cases(HALTON))
def test_confidence_sampler_of_halton(kind, case):
    run = opened(kind, case)
    exponential = run.inputs["confidence:exponential"]
    (schedule,) = case.said(r"confidence sampler: t_i = int\(linspace schedule (\w+)")
    options = Sampling(
        sampler="halton_confidence",
        steps=len(exponential),
        temperature=case.number(r"conf = log p \+ ([\d.]+)\*gumbel"),
        sampling_schedule=schedule,
        guidance_scale=case.number(r"confidence: w ([\d.]+)"),
        guidance_schedule="linear",
        legacy_mask_token=True,
    )
    noise = {"tokens": gumbel(exponential=exponential), "confidence": run.inputs["confidence:gumbel"]}
    condition, null = {"label": run.inputs["y"]}, {"label": np.array([run.plan.null_label])}
    actual = sample(run.twin, all_masked(run), noise, options, condition, null)
    np.testing.assert_array_equal(actual.drawn, flat(run.outputs["confidence:pred_codes"]))
    left = flat(run.outputs["confidence:still_masked_after"])
    np.testing.assert_array_equal(actual.inputs[1:] == run.plan.mask_id, left[:-1])
    assert (np.clip(actual.drawn[-1], 0, run.plan.codebook_size - 1) == actual.tokens)[left[-1] == 0].all()


@pytest.mark.parametrize(("case", "tag"), tagged_cases("gen_(.+)_tokens", LUCIDRAINS))
def test_lucidrains(kind, case, tag):
    """With scores of the critic, if its noise is recorded, else of the generator."""
    run = opened(kind, case)
    steps, temperature, threshold, guidance = map(
        float,
        case.said(r"generate: (\d+) steps, temperature ([\d.]+)\*.*thres ([\d.]+), cond_scale ([\d.]+)"),
    )
    options = Sampling(
        sampler="scores",
        steps=int(steps),
        temperature=temperature,
        top_k=ceil((1 - threshold) * run.plan.codebook_size),
        guidance_scale=guidance - 1,
        critic_noise_scale=case.number(r"\(u-\.5\)\*([\d.]+)\*"),
    )
    noise = {"tokens": gumbel(uniform=run.inputs[f"gen_{tag}_gumbel_uniform"])}
    critic = f"gen_{tag}_critic_uniform" in run.inputs
    if critic:
        noise["critic"] = run.inputs[f"gen_{tag}_critic_uniform"]
    B = len(run.inputs["ids"])
    condition, null = {**run.condition, "text_keep": np.ones(B)}, {"text_keep": np.zeros(1)}
    embedding = embedding_shape(run.plan, B)
    actual = sample(
        run.twin, all_masked(run), noise, options, condition, null, critic=critic, embedding=embedding
    )
    np.testing.assert_array_equal(actual.tokens, run.outputs[f"gen_{tag}_tokens"].reshape(B, -1))


def flat(pictures):
    return pictures.reshape(*pictures.shape[:2], -1)
