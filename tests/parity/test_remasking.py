"""Masked diffusion with re-masking (MDLM and ReMDM), against the papers' formulae in float64.

The model is exact: it knows the distribution of 2 tokens of 3 codes. Both tokens, masked or not, have 16
states, so the distribution of the sampler's results can be computed.
"""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.maskgit.decoding import make_steps
from dioscuri.families.maskgit.remasking import known_shares, remasking
from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.samplers.decoder import Decoder as JaxDecoder
from jax_impl.samplers.decoder import Predictor as JaxPredictor
from jax_impl.samplers.tokens import sample_tokens as jax_sample
from torch_impl.samplers.decoder import Decoder as TorchDecoder
from torch_impl.samplers.decoder import Predictor as TorchPredictor
from torch_impl.samplers.decoder import make_decoder, steps_like
from torch_impl.samplers.masked_diffusion import ancestral_sample
from torch_impl.samplers.tokens import sample_tokens as torch_sample

K = MASK = 3
JOINT = np.array([[0.30, 0.02, 0.05], [0.03, 0.25, 0.02], [0.10, 0.03, 0.20]])
STATES = list(product(range(K + 1), repeat=2))
T = 6
KINDS = {
    "none": {},
    "cap": {"remask": "cap", "remask_rate": 0.3, "sampling_schedule": "linear"},
    "rescale": {"remask": "rescale", "remask_rate": 0.6},
    "loop": {"remask": "loop", "remask_rate": 0.4, "loop_t_on": 0.7, "loop_t_off": 0.2, "loop_alpha_on": 0.6},
}


def options_of(kind, steps=T, **more):
    return Sampling(sampler="ancestral", steps=steps, **{**KINDS[kind], **more})


def conditional(state):
    """The distribution (2, K) of each token, given those of the other that are known."""
    first = JOINT[:, state[1]] if state[1] < K else JOINT.sum(1)
    second = JOINT[state[0]] if state[0] < K else JOINT.sum(0)
    return np.array([first / first.sum(), second / second.sum()])


TABLE = np.array([conditional(state) for state in STATES])


def alpha_of(options, t):
    """The share of known tokens at a time that falls from 1 to 0."""
    if options.remask != "loop":
        return 1 - t if options.sampling_schedule == "linear" else 1 - np.cos(np.pi / 2 * (1 - t))
    on, off, held = options.loop_t_on, options.loop_t_off, np.arccos(1 - options.loop_alpha_on) * 2 / np.pi
    if t >= on:
        done = (1 - t) / (1 - on) * held
    else:
        done = held if t >= off else held + (off - t) / off * (1 - held)
    return 1 - np.cos(np.pi / 2 * done)


def sigma_of(options, t, alpha_t, alpha_s):
    """Equations 4 (the most), 6 (cap) and 7 (rescale) of the paper, and its loop."""
    most = min(1, (1 - alpha_s) / alpha_t) if alpha_t else 1
    rate = options.remask_rate
    in_loop = options.loop_t_off < t - 1e-9 and t <= options.loop_t_on + 1e-9
    return {"none": 0, "cap": min(rate, most), "rescale": rate * most, "loop": min(rate, most) * in_loop}[
        options.remask
    ]


def chain(options):
    """The distribution of the results, from the posterior q(z_s | z_t, x) of equation 3."""
    chance = np.zeros(len(STATES))
    chance[STATES.index((MASK, MASK))] = 1
    for k in range(options.steps):
        t, s = 1 - k / options.steps, 1 - (k + 1) / options.steps
        alpha_t, alpha_s = alpha_of(options, t), alpha_of(options, s)
        sigma = sigma_of(options, t, alpha_t, alpha_s)
        following = np.zeros(len(STATES))
        for index, state in enumerate(STATES):
            each = []
            for code, predicted in zip(state, TABLE[index], strict=True):
                if code == MASK:
                    write = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
                    each.append([*(write * predicted), (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)])
                else:
                    each.append([*((1 - sigma) * np.eye(K)[code]), sigma])
            following += chance[index] * np.outer(*each).ravel()
        chance = following
    return chance.reshape(K + 1, K + 1)


def network(xp):
    def logits(ids, condition, **read):
        table = xp.asarray(np.log(TABLE))
        return table[ids[:, 0] * (K + 1) + ids[:, 1]], {}

    return logits


def noise_of(n, steps=T, seed=0):
    generator = np.random.default_rng(seed)
    return {"tokens": generator.gumbel(size=(steps, n, 2, K)), "remask": generator.random((steps, n, 2))}


def run(xp, noise, options):
    start = np.full((noise["remask"].shape[1], 2), MASK)
    if xp is torch:
        arrays = {name: torch.from_numpy(value) for name, value in noise.items()}
        predictor = TorchPredictor(network(torch), K, MASK, {}, shape=(2,))
        draw = lambda k, _: {name: value[k] for name, value in arrays.items()}  # noqa: E731
        sampled = torch_sample(predictor, torch.from_numpy(start), draw, options, every_step=True)
        return type(sampled)(*map(np.asarray, sampled))
    with jax.enable_x64(True):
        arrays = {name: jnp.asarray(value) for name, value in noise.items()}
        draw = lambda k, _: {name: value[k] for name, value in arrays.items()}  # noqa: E731
        predictor = JaxPredictor(network(jnp), K, MASK, {}, shape=(2,))
        sampled = jax_sample(predictor, jnp.asarray(start), draw, options, every_step=True)
        return type(sampled)(*map(np.asarray, sampled))


def directly(noise, options):
    """The samples that this noise gives, token by token."""
    n = noise["remask"].shape[1]
    ids = np.full((n, 2), MASK)
    for k in range(options.steps):
        t, s = 1 - k / options.steps, 1 - (k + 1) / options.steps
        alpha_t, alpha_s = alpha_of(options, t), alpha_of(options, s)
        sigma = sigma_of(options, t, alpha_t, alpha_s)
        stay = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
        drawn = (np.log(TABLE)[ids[:, 0] * (K + 1) + ids[:, 1]] + noise["tokens"][k]).argmax(-1)
        unknown = ids == MASK
        masked = noise["remask"][k] < np.where(unknown, stay, sigma)
        ids = np.where(masked, MASK, np.where(unknown, drawn, ids))
    return ids


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_papers_distribution(kind):
    """40,000 samples; with an exact model, each token alone has the model's distribution."""
    options, n = options_of(kind), 40_000
    expected = chain(options)
    np.testing.assert_allclose(expected[:K, :K].sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(expected[:K, :K].sum(1), JOINT.sum(1), rtol=1e-12)
    np.testing.assert_allclose(expected[:K, :K].sum(0), JOINT.sum(0), rtol=1e-12)
    tokens = run(torch, noise_of(n), options).tokens
    actual = np.bincount(tokens[:, 0] * K + tokens[:, 1], minlength=K * K).reshape(K, K) / n
    expected = expected[:K, :K]
    assert (np.abs(actual - expected) < 4 * np.sqrt(expected * (1 - expected) / n)).all()


def test_the_entry_point_takes_the_sampler():
    """`ancestral_sample` is what `sample_tokens` calls for the sampler 'ancestral'."""
    options, noise = options_of("cap"), noise_of(20)
    start = torch.full((20, 2), MASK)
    draw = lambda k, _: {name: torch.from_numpy(value[k]) for name, value in noise.items()}  # noqa: E731
    steps = steps_like(make_steps(options, 2), start)
    decoder = make_decoder(TorchPredictor(network(torch), K, MASK, {}), options, steps, draw, (2,) * T)
    np.testing.assert_array_equal(ancestral_sample(decoder, start).tokens, run(torch, noise, options).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_both_twins_sample_what_the_noise_says(kind):
    options, noise = options_of(kind), noise_of(500, seed=1)
    expected = directly(noise, options)
    assert (expected < K).all()
    np.testing.assert_array_equal(run(torch, noise, options).tokens, expected)
    np.testing.assert_array_equal(run(jnp, noise, options).tokens, expected)


@pytest.mark.parametrize("xp", [torch, jnp])
@pytest.mark.parametrize("sampler", ["ancestral", "halton"])
def test_steps_that_would_change_nothing_are_not_taken(sampler, xp, monkeypatch):
    """Without a masked token the network is not called again, and the tokens are those of all steps."""
    more = {} if sampler == "ancestral" else {"randomize": False}
    counts = (1, 1, *[0] * 10)
    options, noise = Sampling(sampler=sampler, steps=12, mask_counts=counts, **more), noise_of(3, 12, seed=2)
    actual = run(xp, noise, options)
    assert actual.taken == 3
    for decoder in (TorchDecoder, JaxDecoder):
        monkeypatch.setattr(decoder, "has_masked", lambda *_: np.True_)
    whole = run(xp, noise, options)
    assert whole.taken == 12
    np.testing.assert_array_equal(actual.tokens, whole.tokens)
    for name in ("inputs", "drawn"):
        steps = np.asarray(getattr(actual, name))
        np.testing.assert_array_equal(steps[: actual.taken], getattr(whole, name)[: actual.taken])
        np.testing.assert_array_equal(steps[int(actual.taken) :], [actual.tokens] * (12 - int(actual.taken)))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "arccos", "square", "log", "pow3", "sigmoid"])
def test_the_loop_holds_any_schedule(schedule):
    options = options_of("loop", 20, sampling_schedule=schedule)
    alpha, steps = known_shares(options, 64), make_steps(options, 64)
    np.testing.assert_allclose(alpha[6:17], 0.6, atol=2e-6)
    assert (np.diff(alpha) >= 0).all()
    assert alpha[5] < 0.6 < alpha[17]
    assert (np.flatnonzero(steps.remask) == np.arange(6, 16)).all()
    np.testing.assert_allclose(steps.remask[6:15], 0.4, rtol=1e-6)
    assert ((steps.stay >= 0) & (steps.stay <= 1)).all()
    assert steps.stay[-1] == 0
    assert set(steps.masked[6:16, 64]) == {25}


def test_masked_counts_give_the_shares_of_known_tokens():
    options = options_of("cap", 4, mask_counts=(48, 16, 16, 0), remask_rate=1.0)
    np.testing.assert_allclose(known_shares(options, 64), [0, 0.25, 0.75, 0.75, 1])
    np.testing.assert_allclose(make_steps(options, 64).remask, [1, 1, 1 / 3, 0], rtol=1e-6)


def test_the_name_of_version_0_1_0_is_understood():
    assert (remasking(options_of("cap", remask="random"), 2) == remasking(options_of("cap"), 2)).all()
