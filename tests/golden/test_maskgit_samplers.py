"""Both twins sample the tokens that the original programs sampled, step by step, from the recorded noise."""

from math import ceil

import numpy as np
import pytest

from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.training import embedding_shape
from dioscuri.families.token_models.masking_options import Sampling
from tests.golden.recorded import cases
from tests.golden.recorded_transformers import opened
from tests.support.samplers import sample
from tests.support.transformers import TWINS

OPEN_MUSE, UVIT, GOOGLE, HALTON, LUCIDRAINS = (
    ("maskgit", runner)
    for runner in (
        "maskgit_transformer",
        "uvit",
        "maskgit_flax_transformer",
        "halton_maskgit",
        "lucidrains_token_critic",
    )
)
OF_OPEN_MUSE = {
    "legacy_mask_count": True,
    "legacy_known_confidence": True,
    "legacy_guidance": True,
}
GENERATE2 = {
    "gen2": {"steps": 6, "temperature": 4.5},
    "inpaint": {"steps": 4, "temperature": 1.0},
}
GENERATE2_WITH_TEXT = {
    "gen2": {"steps": 6, "temperature": 2.0, "guidance_scale": 2.0},
    "gen2neg": {"steps": 4, "temperature": 1.0, "guidance_scale": 0.5, "sampling_schedule": "pow2.5"},
}
GENERATE2_OF_UVIT = {
    "gen2": {"steps": 5, "temperature": (2.0, 0.0), "guidance_scale": 3.0},
    "gen2neg": {
        "steps": 4,
        "temperature": (1.0, 0.01),
        "guidance_scale": 5.0,
        "guidance_schedule": "cosine",
    },
}


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


def check_generate2(run, tag, start, options, condition, null=None):
    """Inputs, choices, temperatures and result of open-muse's `generate2`."""
    noise = {
        "tokens": gumbel(exponential=run.inputs[f"{tag}_multinomial_exponential"]),
        "confidence": gumbel(uniform=run.inputs[f"{tag}_gumbel_uniform"]),
    }
    found = sample(run.twin, start, noise, options, condition, null)
    B, L = start.shape
    inputs = run.outputs[f"{tag}_model_input_ids"][:, :B, -L:]
    np.testing.assert_array_equal(found.inputs, inputs)
    np.testing.assert_array_equal(found.inputs[1:] == run.plan.mask_id, run.outputs[f"{tag}_masking"][:-1])
    np.testing.assert_array_equal(found.tokens, run.outputs[f"{tag}_tokens"])
    steps, unknown = make_steps(options, L), (found.inputs == run.plan.mask_id).sum(-1)
    counts = np.maximum(np.minimum(unknown - 1, steps.masked[:, unknown[0]]), 1)
    np.testing.assert_array_equal(counts, run.outputs[f"{tag}_mask_len"][..., 0])
    np.testing.assert_allclose(steps.temperature, run.outputs[f"{tag}_temperature"], rtol=1e-6)


@pytest.mark.parametrize("tag", GENERATE2)
@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE, output="inpaint_tokens"))
def test_open_muse_of_classes(kind, folder, case, tag):
    run = opened(kind, folder, case)
    options = Sampling(**OF_OPEN_MUSE, **GENERATE2[tag], legacy_temperature=True)
    start = run.inputs["inpaint_input_ids"] if tag == "inpaint" else all_masked(run)
    check_generate2(run, tag, start, options, run.condition)


@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE, output="gen1_tokens"))
def test_open_muse_by_scores(kind, folder, case):
    run = opened(kind, folder, case)
    options = Sampling(
        sampler="scores",
        steps=5,
        temperature=1.3,
        top_k=ceil(0.3 * run.plan.codebook_size),
        legacy_scores=True,
    )
    noise = {"tokens": gumbel(uniform=run.inputs["gen1_gumbel_uniform"])}
    found = sample(run.twin, all_masked(run), noise, options, run.condition)
    np.testing.assert_array_equal(found.inputs, run.outputs["gen1_model_input_ids"][..., 1:])
    np.testing.assert_array_equal(found.tokens, run.outputs["gen1_tokens"])


@pytest.mark.parametrize("tag", GENERATE2_WITH_TEXT)
@pytest.mark.parametrize(("folder", "case"), cases(OPEN_MUSE, output="gen2neg_tokens"))
def test_open_muse_of_text(kind, folder, case, tag):
    run = opened(kind, folder, case)
    options = Sampling(**OF_OPEN_MUSE, **GENERATE2_WITH_TEXT[tag], legacy_temperature=True)
    text = run.condition["text"]
    null = {"text": run.inputs["negative_embeds"] if tag == "gen2neg" else np.zeros_like(text)}
    check_generate2(run, tag, all_masked(run), options, run.condition, null)


@pytest.mark.parametrize("tag", GENERATE2_OF_UVIT)
@pytest.mark.parametrize(("folder", "case"), cases(UVIT))
def test_uvit(kind, folder, case, tag):
    run = opened(kind, folder, case)
    options = Sampling(**OF_OPEN_MUSE, **GENERATE2_OF_UVIT[tag])
    prefix = "negative" if tag == "gen2neg" else "empty"
    null = {"text": run.inputs[f"{prefix}_embeds"], "pooled": run.inputs[f"{prefix}_cond_embeds"]}
    check_generate2(run, tag, all_masked(run), options, run.condition, null)


@pytest.mark.parametrize(("folder", "case"), cases(GOOGLE))
def test_google(kind, folder, case):
    run = opened(kind, folder, case)
    decode, start = case["decode"], run.inputs["decode_start"]
    options = Sampling(
        steps=decode["num_iter"],
        start_step=decode["start_iter"],
        temperature=decode["choice_temperature"],
        sampling_schedule=decode["mask_scheduling_method"],
    )
    condition = {"label": start[:, 0] - run.plan.codebook_size}
    start = np.where(start[:, 1:] == case["mask_token_id"], run.plan.mask_id, start[:, 1:])
    noise = {
        "tokens": run.inputs["gumbel_tokens"][:, :, 1:],
        "confidence": run.inputs["gumbel_select"][:, :, 1:],
    }
    found = sample(run.twin, start, noise, options, condition)
    recorded = run.outputs["step_input_ids"][..., 1:]
    recorded = np.where(recorded == case["mask_token_id"], run.plan.mask_id, recorded)
    np.testing.assert_array_equal(found.inputs, recorded)
    np.testing.assert_array_equal(found.drawn.transpose(1, 0, 2), run.outputs["final_seqs"][..., 1:])


HALTON_RUNS = {
    "plain": {"guidance_scale": 2.0, "logit_scale": (1.0, 1.2)},
    "rand_warm": {
        "guidance_scale": 1.5,
        "logit_scale": (0.9, 1.4),
        "logit_scale_power": 2.0,
        "logit_scale_warmup": 1,
    },
    "topk_nocfg": {"top_k": 5},
}


@pytest.mark.parametrize("tag", HALTON_RUNS)
@pytest.mark.parametrize(("folder", "case"), cases(HALTON))
def test_halton(kind, folder, case, tag):
    run = opened(kind, folder, case)
    exponential = run.inputs[f"halton:{tag}:exponential"]
    options = Sampling(
        sampler="halton",
        steps=len(exponential),
        sampling_schedule="arccos",
        legacy_mask_token=True,
        **HALTON_RUNS[tag],
    )
    condition, null = {"label": run.inputs["y"]}, {"label": np.array([run.plan.null_label])}
    noise = {"ranked" if "top_k" in HALTON_RUNS[tag] else "tokens": gumbel(exponential=exponential)}
    offsets = run.inputs.get(f"halton:{tag}:roll")
    found = sample(
        run.twin, all_masked(run), noise, options, condition, null, offsets=offsets, every_step=True
    )
    pred, masks = (flat(run.outputs[f"halton:{tag}:{name}"]) for name in ("pred_codes", "masks"))
    np.testing.assert_array_equal(found.drawn, pred)
    ids = all_masked(run)
    for k, written in enumerate(masks):
        np.testing.assert_array_equal(found.inputs[k], ids)
        ids = np.where(written > 0, pred[k], ids)
    final = run.outputs[f"halton:{tag}:final_code"]
    np.testing.assert_array_equal(found.tokens, final.reshape(len(final), -1))


@pytest.mark.parametrize(("folder", "case"), cases(HALTON))
def test_confidence_sampler_of_halton(kind, folder, case):
    run = opened(kind, folder, case)
    exponential = run.inputs["confidence:exponential"]
    options = Sampling(
        sampler="halton_confidence",
        steps=len(exponential),
        temperature=4.5,
        sampling_schedule="arccos",
        guidance_scale=2.0,
        guidance_schedule="linear",
        legacy_mask_token=True,
    )
    noise = {"tokens": gumbel(exponential=exponential), "confidence": run.inputs["confidence:gumbel"]}
    condition, null = {"label": run.inputs["y"]}, {"label": np.array([run.plan.null_label])}
    found = sample(run.twin, all_masked(run), noise, options, condition, null)
    np.testing.assert_array_equal(found.drawn, flat(run.outputs["confidence:pred_codes"]))
    left = flat(run.outputs["confidence:still_masked_after"])
    np.testing.assert_array_equal(found.inputs[1:] == run.plan.mask_id, left[:-1])
    assert (np.clip(found.drawn[-1], 0, run.plan.codebook_size - 1) == found.tokens)[left[-1] == 0].all()


@pytest.mark.parametrize("tag", ["critic", "nocritic"])
@pytest.mark.parametrize(("folder", "case"), cases(LUCIDRAINS))
def test_lucidrains(kind, folder, case, tag):
    run = opened(kind, folder, case)
    options = Sampling(
        sampler="scores",
        steps=5,
        temperature=1.1,
        top_k=ceil(0.4 * run.plan.codebook_size),
        guidance_scale=1.5,
    )
    noise = {"tokens": gumbel(uniform=run.inputs[f"gen_{tag}_gumbel_uniform"])}
    if tag == "critic":
        noise["critic"] = run.inputs["gen_critic_critic_uniform"]
    B = len(run.inputs["ids"])
    condition, null = {**run.condition, "text_keep": np.ones(B)}, {"text_keep": np.zeros(1)}
    found = sample(
        run.twin,
        all_masked(run),
        noise,
        options,
        condition,
        null,
        critic=tag == "critic",
        embedding=embedding_shape(run.plan, B),
    )
    np.testing.assert_array_equal(found.tokens, run.outputs[f"gen_{tag}_tokens"].reshape(B, -1))


def flat(pictures):
    return pictures.reshape(*pictures.shape[:2], -1)
