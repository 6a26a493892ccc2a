"""Training SUNDAE and sampling from it is the same in both twins: curves, tokens, runs that change twins."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from dioscuri.families.sundae.denoising_options import Resampling, Unrolling
from dioscuri.families.sundae.options import Loss
from dioscuri.families.sundae.training import make_sampling_schedule
from jax_impl.samplers.choice import inverse_cdf_sample as jax_draw
from jax_impl.samplers.sundae import resample_tokens as jax_resample
from tests.parity.denoiser_cases import make
from tests.parity.option_cases import enumerated
from tests.parity.test_maskgit_training import assert_equal_results, batch_of, train
from tests.support.denoisers import TWINS as NETWORKS
from tests.support.engines import assert_curves_agree, assert_goes_on, assert_steps_agree
from tests.support.sundae import resample
from tests.support.tiny_maskgit import CODES, GRID, write_tokenizer
from tests.support.tiny_sundae import make_engine, tiny
from torch_impl.layers.rotary import rotate
from torch_impl.samplers.choice import inverse_cdf_sample as torch_draw
from torch_impl.samplers.sundae import resample_tokens as torch_resample

TWINS = ("torch", "jax")
N = 100
PIXELS = ("data.dataset_source=digits", "data.grid=8", "data.codebook_size=17")


@pytest.fixture(scope="module")
def curves(users_compiler):
    with users_compiler():
        return {twin: train(make_engine(twin), range(N))["loss"] for twin in TWINS}


def test_a_hundred_steps_have_the_same_losses(curves):
    assert_curves_agree(curves, fall=0.8)


def test_bfloat16_stays_near_float32(curves):
    for twin in TWINS:
        losses = train(make_engine(twin, "train.precision=bfloat16"), range(2))["loss"]
        np.testing.assert_allclose(losses, curves[twin][:2], rtol=1e-2)


TRAINED = [
    ("loss.unroll_weights=[0.5, 2]", "loss.legacy_weight_decay=True"),
    ("loss.unroll_steps=1", "train.accumulation_steps=2"),
]


@pytest.mark.parametrize("options", TRAINED, ids=" ".join)
def test_steps_in_float64_agree_to_rounding(options):
    assert_steps_agree(make_engine, train, *options)


@pytest.mark.parametrize(("first", "second"), [*product(TWINS, TWINS)])
def test_a_run_continues_in_either_twin(curves, first, second):
    assert_goes_on(make_engine, train, (first, second), curves[first])


def test_the_loss_is_that_of_all_passes():
    assert Unrolling(unroll_steps=3).weights == (1 / 3,) * 3
    engine = make_engine("torch", "loss.unroll_weights=[3, 1]")
    found = train(engine, range(1))
    np.testing.assert_allclose(
        found["loss"], 0.75 * found["unrolled.0"] + 0.25 * found["unrolled.1"], rtol=1e-6
    )


CERTAIN = ("synthesis.top_k=1", "synthesis.sample_proportion=1", "synthesis.steps=4")
"""Only the initial tokens come from the twins' generators, which differ."""
SAMPLED = [
    CERTAIN,
    ("synthesis.sampler=argmax_unrolled", "synthesis.stop_rule=masked", *CERTAIN[1:]),
    ("synthesis.early_stop=False", *CERTAIN),
]


def test_every_value_of_loss_and_sampler_is_in_a_case():
    made = [tiny(*options) for options in (*TRAINED, *SAMPLED)]
    for section, kind in (("loss", Loss), ("synthesis", Resampling)):
        for name, values in enumerated(kind).items():
            assert {getattr(getattr(hparams, section), name) for hparams in made} == set(values), name


@pytest.mark.parametrize("options", SAMPLED, ids=" ".join)
def test_both_draw_the_same_tokens_and_pictures(tmp_path, options):
    tokenizer = write_tokenizer(tmp_path)
    engines = {twin: make_engine(twin, f"data.tokenizer_path={tokenizer}", *options) for twin in TWINS}
    rng = np.random.default_rng(0)
    start = rng.integers(0, CODES, (3, GRID**2)).astype(np.int32)
    asked = {"label": np.array([1, 5, 8]), "start": start}
    drawn = assert_equal_results(
        {t: e.run("generate", asked, ema=True, step=0, every_step=True) for t, e in engines.items()}
    )
    assert drawn["image"].shape == (3, 8, 8, 1)
    assert drawn["steps"].shape == drawn["masked"].shape == (3, 4, GRID**2)
    np.testing.assert_array_equal(drawn["steps"][:, -1], drawn["tokens"])
    assert (drawn["tokens"] != start).any()
    unknown = np.tile(np.arange(GRID**2) % 3 == 0, (3, 1))
    given = batch_of(7, 3) | {"unknown": unknown}
    for engine in engines.values():
        filled = engine.run("inpaint", given, ema=True, step=0)["tokens"]
        np.testing.assert_array_equal(filled[~unknown], given["tokens"][~unknown])
        free = engine.run("generate", {"label": np.array([1, 2])}, ema=True, step=0)["tokens"]
        assert (free < CODES).all()
        assert not np.array_equal(
            free, engine.run("generate", {"label": np.array([1, 2])}, ema=True, step=1)["tokens"]
        )


def test_grey_levels_are_tokens():
    image = ((np.arange(2 * 64).reshape(2, 8, 8, 1) % 17 * 255 + 8) // 16).astype(np.uint8)
    for twin in TWINS:
        engine = make_engine(twin, *PIXELS)
        tokens = engine.run("encode", {"image": image}, ema=False, step=0)["tokens"]
        assert tokens.shape == (2, 64)
        assert set(tokens.reshape(-1)) == set(range(17))
        np.testing.assert_array_equal(
            engine.run("decode", {"tokens": tokens}, ema=False, step=0)["image"], image
        )


def resampled(kind, known=None, **options):
    """Results for the network of a case, and the noise that it got."""
    plan, weights, ids, condition, _ = make("flat")
    chosen = Resampling(steps=6, **options)
    rng = np.random.default_rng(5)
    noise = {
        "tokens": rng.random((6, *ids.shape)),
        "update": rng.random((6, *ids.shape)),
    }
    return ids, resample(kind(plan, weights, "float64"), ids, noise, chosen, condition, known)


@pytest.mark.parametrize("options", [
    {"top_k": 2, "top_p": 0.7, "end_temperature": 0.3},
    {"sampler": "argmax_unrolled", "min_steps": 0, "sample_proportion": 0.3},
    {"min_steps": 0, "sample_proportion": 0.01, "stop_rule": "masked"},
])  # fmt: skip
def test_samplers_are_equal_in_float64(options):
    found, expected = (resampled(NETWORKS[twin], **options)[1] for twin in ("jax", "torch"))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_when_a_picture_is_finished():
    kind = NETWORKS["torch"]
    start, found = resampled(kind, min_steps=2, sample_proportion=0.0, stop_rule="masked")
    np.testing.assert_array_equal(found.tokens, start)
    assert found.taken.tolist() == [3, 3]
    every = len(found.steps)
    still = resampled(kind, min_steps=2, sample_proportion=0.0)[1]
    assert still.taken.tolist() == [every, every]  # no token stays if all are resampled
    kept = resampled(kind, min_steps=2, sample_proportion=0.0, stop_rule="masked", early_stop=False)[1]
    assert kept.taken.tolist() == [every, every]


@pytest.mark.parametrize("kind", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("every", [1, 4])
def test_sure_tokens_keep_their_first_prediction(kind, every):
    """In two passes, the fraction of the least certain tokens comes from the second."""
    plan, weights, ids, condition, _ = make("flat")
    known = np.tile(np.arange(plan.n_tokens) % every != 0, (len(ids), 1))
    twin = kind(plan, weights, "float64")
    found = resampled(kind, known, sampler="argmax_unrolled", sample_proportion=0.25)[1].steps[0]
    logits = twin.forward(ids, condition)["logits"]
    first = np.where(known, ids, logits.argmax(-1))
    second = twin.forward(first, condition)["logits"].argmax(-1)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    sure = np.where(known, 2, (shares / shares.sum(-1, keepdims=True)).max(-1))
    n = round(plan.n_tokens / every * 0.25)
    for row, order in enumerate(sure.argsort(-1)):
        np.testing.assert_array_equal(found[row, order[:n]], second[row, order[:n]])
        np.testing.assert_array_equal(found[row, order[n:]], first[row, order[n:]])


def black_sheep(xp):
    """A network of 3 codes that predicts its input, but black, code 0, only barely."""

    def logits(ids):
        black = (ids == 0).all(1)[:, None, None]
        copied = xp.where(ids[..., None] == xp.arange(3)[None, None], 0.9, 0.05)
        return xp.log(xp.where(black, xp.asarray([0.4, 0.3, 0.3])[None, None], copied))

    return logits


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("xp", "resample_tokens"), [(torch, torch_resample), (jnp, jax_resample)])
def test_a_black_picture_is_the_networks_own_fixed_point(xp, resample_tokens, share):
    """Why one digit in 20 was black: for a black picture, black is the network's most likely prediction, with
    0.4 here and in a trained model. Argmax decoding cannot leave it, however many tokens are predicted again.
    Sampling leaves it at once, and other pictures do not turn black."""

    def run(start, sampler, **options):
        chosen = Resampling(steps=20, sampler=sampler, sample_proportion=share, **options)
        noise = {name: xp.asarray(rng.random((20, 2, 64))) for name in ("tokens", "update")}
        draw = lambda k: {name: value[k] for name, value in noise.items()}  # noqa: E731
        steps = make_sampling_schedule(chosen)
        return np.asarray(resample_tokens(black_sheep(xp), xp.asarray(start), draw, steps, chosen).tokens)

    rng = np.random.default_rng(0)
    start = np.stack([np.zeros(64, int), np.tile([0, 1, 2, 1], 16)])
    np.testing.assert_array_equal(run(start, "argmax_unrolled"), start)
    if share:
        assert run(start, "ancestral", early_stop=False)[0].any()


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("xp", "resample_tokens"), [(torch, torch_resample), (jnp, jax_resample)])
def test_stopping_early_changes_nothing_of_argmax_decoding(xp, resample_tokens, share):
    """Each pass of the network lowers every code by 1, to 0. A step is a function of the tokens alone, so
    none changes anything after one that does not."""

    def network(ids):
        return -xp.abs(ids[..., None] - 1 - xp.arange(6)[None, None]) * 1.0

    start = xp.asarray(np.array([[0] * 8, [5] * 8, [0, 1, 2, 3, 3, 2, 1, 0]]))
    made = {}
    for early_stop in (True, False):
        more = {"min_steps": 0} if early_stop else {"early_stop": False}
        chosen = Resampling(steps=12, sampler="argmax_unrolled", sample_proportion=share, **more)
        steps = make_sampling_schedule(chosen)
        made[early_stop] = resample_tokens(network, start, None, steps, chosen, every_step=True)
    for name in ("tokens", "steps"):
        np.testing.assert_array_equal(*(np.asarray(getattr(one, name)) for one in made.values()))
    taken = np.asarray(made[True].taken)
    assert taken[0] == 1
    assert (taken[1:] < 12).all()
    assert np.asarray(made[False].taken).tolist() == [12, 12, 12]


@pytest.mark.parametrize("codes", [3, 70, 1024])
def test_uniforms_draw_tokens_by_their_shares(codes):
    """Evenly spaced noise samples every token in proportion to its probability, and filtered ones never."""
    n, rng = 4096, np.random.default_rng(codes)
    logits = rng.normal(size=codes).astype(np.float32)
    logits[[0, codes - 1]] = -np.inf
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    uniform = np.append((np.arange(n - 2) + 0.5) / (n - 2), [0, 1 - 2**-24]).astype(np.float32)
    found = {
        "torch": torch_draw(torch.from_numpy(logits).expand(n, codes), torch.from_numpy(uniform)).numpy(),
        "jax": np.asarray(jax_draw(jnp.broadcast_to(logits, (n, codes)), jnp.asarray(uniform))),
    }
    assert found["torch"][-2:].tolist() == [1, codes - 2]
    for tokens in found.values():
        counts = np.bincount(tokens, minlength=codes)
        assert not counts[shares == 0].any()
        assert np.abs(counts - n * shares).max() < 3
    assert (found["torch"] != found["jax"]).sum() <= 2  # where the noise lies on a boundary, within rounding


def test_compiled_networks_rotate_positions_alike(monkeypatch):
    """Even with channels that do not rotate, and views."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(2, 5, 3, 20)))[..., ::2].clone().requires_grad_()
    cos, sin = (torch.from_numpy(f(rng.normal(size=(5, 1, 4)))) for f in (np.cos, np.sin))
    forms = []
    for compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda compiling=compiling: compiling)
        y = rotate(x, cos, sin)
        forms.append((y, torch.autograd.grad(y.square().sum() + y[..., 0].sum(), x)[0]))
    for first, second in zip(*forms, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
    assert torch.equal(forms[0][0][..., 8:], x[..., 8:])
