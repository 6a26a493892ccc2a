"""Logits are computed only where tokens are sampled, and samples are the same as with all logits."""

import importlib
import re

import numpy as np
import pytest

from dioscuri.errors import UserError
from dioscuri.families.maskgit.decoding import positions_to_predict, step_noise_specs
from dioscuri.families.token_models.masking_options import Sampling
from tests.parity.transformer_cases import make
from tests.support.samplers import sample
from tests.support.transformers import Torch

STEPS = 5
SAMPLERS = {
    "confidence": {},
    "legacy": {"legacy_mask_count": True, "legacy_known_confidence": True, "sampling_schedule": "log"},
    "remask": {"remask": "cap", "remask_rate": 0.5},
    "guided": {"guidance_scale": 1.5, "start_step": 1, "top_p": 0.9},
    "scores": {"sampler": "scores", "sampling_schedule": "pow2"},
    "halton": {"sampler": "halton", "sampling_schedule": "arccos", "start_step": 1},
}


def noise(options, plan, batch):
    generator = np.random.default_rng(1)
    return {
        draw.name: generator.gumbel(size=(STEPS, *draw.shape)).astype(np.float32)
        for draw in step_noise_specs(options, batch, plan.n_tokens, plan.codebook_size)
    }


@pytest.mark.parametrize("case", ["class", "patches", "uvit_plain", "google", "halton", "lucidrains"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_reading_fewer_positions_changes_nothing(name, case, monkeypatch):
    plan, weights, ids, condition, _ = make(case)
    options = Sampling(steps=STEPS, **SAMPLERS[name])
    needed = positions_to_predict(options, plan.n_tokens)
    assert len(needed) == STEPS
    assert min(needed) < plan.n_tokens
    # Holes of different sizes, and one picture that is entirely unknown.
    start = np.array(ids)
    for i, row in enumerate(start):
        row[: plan.n_tokens - 3 * i] = plan.mask_id
    start = np.where(start == plan.mask_id, start, start % plan.codebook_size)
    condition.pop("self", None)
    null = {"label": np.array([plan.null_label])} if "label" in condition else None
    given = Torch(plan, weights), start, noise(options, plan, len(start)), options, condition, null
    actual = sample(*given)
    module = importlib.import_module("torch_impl.samplers.tokens")
    monkeypatch.setattr(module, "positions_to_predict", lambda *_, **__: (plan.n_tokens,) * STEPS)
    whole = sample(*given)
    np.testing.assert_array_equal(actual.tokens, whole.tokens)
    np.testing.assert_array_equal(actual.inputs, whole.inputs)
    assert (actual.tokens < plan.codebook_size).all()


@pytest.mark.parametrize(
    "options",
    [
        {"remask": "confidence"},
        {"sampler": "scores", "legacy_scores": True},
        {"sampler": "halton_confidence"},
        {"sampler": "ancestral", "remask": "cap"},
    ],
)
def test_samplers_that_judge_known_tokens_need_all(options):
    assert set(positions_to_predict(Sampling(steps=STEPS, **options), 64)) == {64}


def test_what_is_shown_of_every_step_needs_all():
    halton = Sampling(sampler="halton", steps=8)
    assert max(positions_to_predict(halton, 64)) < 64
    assert set(positions_to_predict(halton, 64, every_step=True)) == {64}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"sampler": "halton", "remask": "loop"},
            "is for sampler ancestral and confidence and logits, not 'halton'",
        ),
        ({"remask": "loop", "loop_alpha_on": 0.0}, "loop_alpha_on must be above 0"),
        ({"sampler": "scores", "remask": "rescale"}, "is for sampler ancestral and confidence"),
        (
            {"sampler": "halton_confidence", "remask": "confidence"},
            "sampler confidence and logits and scores",
        ),
        ({"legacy_mask_token": True}, "for the samplers halton and halton_confidence, not 'confidence'"),
    ],
)
def test_options_that_a_sampler_would_not_heed_are_named(options, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Sampling(**options)
