"""Learning rate, beta and gamma as functions of the step."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dioscuri.errors import UserError
from dioscuri.hparams import load
from dioscuri.schedules import beta, gamma, learning_rate
from tests.golden.host_cases import ANY_CFG, check_schedules

CASE = Path(__file__).parents[1] / "golden" / "cases" / "hierarchical_vae" / "schedules"
BASE = load(ANY_CFG)
SCHEMES = ("cosine", "constant", "exponential", "noam")


def optimizer(**changes):
    """Warm-up of 10 steps, decay from step 20 over 100 steps, from 1e-3 to 2e-4."""
    options = {"learning_rate": 1e-3, "min_learning_rate": 2e-4, "warmup_steps": 10.0, "decay_start": 20}
    return replace(BASE.optimizer, **{**options, "decay_steps": 100, "decay_rate": 0.5, **changes})


def loss(**changes):
    return replace(BASE.loss, **changes)


def rates(n, **changes):
    options = optimizer(**changes)
    return [learning_rate(step, options) for step in range(n)]


def recursion(n, options):
    """The original torch program's cosine, step by step."""
    base, low, period = options.learning_rate, options.min_learning_rate, options.decay_steps
    actual = [base * min(1, step / options.warmup_steps) for step in range(options.decay_start)]
    for t in range(options.decay_start, n):
        before = actual[-1]
        if (t - 1 - period) % (2 * period) == 0:
            actual.append(before + (base - low) * (1 - math.cos(math.pi / period)) / 2)
        else:
            ratio = (1 + math.cos(math.pi * t / period)) / (1 + math.cos(math.pi * (t - 1) / period))
            actual.append(ratio * (before - low) + low)
    return actual


def test_recorded_tables(tmp_path):
    check_schedules(CASE, tmp_path)


@pytest.mark.parametrize(
    ("start", "period"),
    [(20, 100), (99, 100), (100, 100), (101, 100), (102, 100), (150, 100), (301, 100), (10, 7)],
)
def test_legacy_cosine_is_its_recursion(start, period):
    options = optimizer(
        decay_start=start, decay_steps=period, legacy_torch_cosine=True, learning_rate_scheme="cosine"
    )
    expected = recursion(start + 3 * period, options)
    got = [learning_rate(step, options) for step in range(start + 3 * period)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_legacy_cosine_without_a_step_before_the_decay():
    got = rates(201, decay_start=0, warmup_steps=0.0, legacy_torch_cosine=True, learning_rate_scheme="cosine")
    assert got[0] == 1e-3
    assert got[100] == pytest.approx(2e-4)
    assert got[200] == pytest.approx(1e-3)


def test_cosine_ends_at_the_minimum_and_stays():
    got = rates(400, learning_rate_scheme="cosine")
    assert got[20] == 1e-3
    assert got[70] == pytest.approx(6e-4)
    assert got[120:] == pytest.approx([2e-4] * 280)


def test_exponential_halves_every_decay_steps_down_to_the_minimum():
    got = rates(600, learning_rate_scheme="exponential")
    assert got[20] == 1e-3
    assert got[120] == pytest.approx(5e-4)
    assert got[220] == pytest.approx(2.5e-4)
    assert got[300:] == [2e-4] * 300


def test_noam_falls_with_the_square_root():
    got = rates(50, learning_rate_scheme="noam")
    assert got[:11] == pytest.approx([i * 1e-4 for i in range(11)])
    assert got[40] == pytest.approx(5e-4)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_without_warm_up_only_the_first_step_is_zero(scheme):
    got = rates(3, learning_rate_scheme=scheme, warmup_steps=0.0)
    assert got[0] == 0
    assert got[1] == 1e-3


def test_warm_up_beyond_the_start_of_the_decay_is_refused():
    for scheme in ("cosine", "exponential"):
        with pytest.raises(UserError, match="warmup_steps 30 must not be more than decay_start 20"):
            optimizer(warmup_steps=30.0, learning_rate_scheme=scheme)
    assert optimizer(warmup_steps=30.0, learning_rate_scheme="constant").warmup_steps == 30


@given(
    step=st.integers(0, 2_000_000),
    scheme=st.sampled_from(SCHEMES),
    warmup=st.floats(0, 1000),
    wait=st.integers(0, 1000),
    steps=st.integers(1, 10**6),
    rate=st.floats(0, 1),
    low=st.floats(0, 1e-3),
)
def test_rates_lie_between_zero_and_the_base(step, scheme, warmup, wait, steps, rate, low):
    options = optimizer(
        learning_rate_scheme=scheme,
        warmup_steps=warmup,
        decay_start=math.ceil(warmup) + wait,
        decay_steps=steps,
        decay_rate=rate,
        min_learning_rate=low,
    )
    got = learning_rate(step, options)
    assert 0 <= got <= 1e-3 * (1 + 1e-12)
    if scheme != "constant" and scheme != "noam" and step > options.decay_start:
        assert got >= low * (1 - 1e-12)
        assert learning_rate(step + 1, options) <= got * (1 + 1e-12)


@given(
    step=st.integers(0, 2_000_000),
    start=st.integers(0, 10**4),
    steps=st.integers(1, 10**4),
    low=st.floats(0, 1),
    kind=st.sampled_from(["Linear", "Logistic", "None"]),
    growth=st.floats(0, 10),
)
def test_beta_rises_within_its_bounds(step, start, steps, low, kind, growth):
    options = loss(variation_schedule=kind, vae_beta_anneal_start=float(start), vae_beta_min=low,
                   vae_beta_anneal_steps=float(steps), vae_beta_activation_steps=float(start),
                   vae_beta_growth_rate=growth)  # fmt: skip
    assert (low if kind == "Linear" else 0) <= beta(step, options) <= beta(step + 1, options) <= 1


def test_linear_beta_divides_by_start_and_steps():
    options = loss(
        variation_schedule="Linear", vae_beta_anneal_start=20.0, vae_beta_anneal_steps=80.0, vae_beta_min=0.1
    )
    assert [beta(step, options) for step in (0, 20, 70, 120, 500)] == [0.1, 0.1, 0.5, 1.0, 1.0]


def test_logistic_beta_does_not_overflow():
    options = loss(
        variation_schedule="Logistic", vae_beta_growth_rate=10.0, vae_beta_activation_steps=100_000.0
    )
    assert beta(0, options) == 0.0
    assert beta(100_000, options) == 0.5
    assert beta(10**9, options) == 1.0


@given(st.integers(0, 100), st.integers(0, 100))
def test_gamma_ends_after_its_last_step(step, last):
    assume(step != last)
    assert gamma(step, loss(use_gamma_schedule=True, gamma_max_steps=last)) == float(step < last)
    assert gamma(last, loss(use_gamma_schedule=True, gamma_max_steps=last)) == 1.0
    assert gamma(step, loss(use_gamma_schedule=False, gamma_max_steps=last)) == 0.0
