"""Training a masked token model and sampling from it is the same in both twins: curves, losses with every
option, tokens, pictures, and runs that continue in the other twin."""

from functools import partial
from itertools import product

import numpy as np
import pytest

from tests.support import engines
from tests.support.engines import (
    assert_curves_agree,
    assert_goes_on,
    assert_steps_agree,
    pictures,
    recorded_noise,
    run_steps,
)
from tests.support.tiny_maskgit import CODES, GRID, example_tokens, tiny, write_tokenizer

TWINS = ("torch", "jax")
N = 100
BATCH = 8
CERTAIN = ("synthesis.top_k=1", "synthesis.temperature=0.", "synthesis.randomize=False")
"""Samplers that use only given noise, since the twins' generators differ."""

UNCONDITIONAL = ("model.num_classes=0", "loss.cond_dropout_prob=0")
DROPOUT = ("model.hidden_dropout=0.1", "model.attention_dropout=0.1")


def seldom(*options):
    """A slow case, because of its compilation."""
    return pytest.param(options, marks=pytest.mark.slow)


make_engine = partial(engines.make_engine, options=tiny)


def batch_of(step, n=BATCH):
    """Tokens and their classes."""
    tokens, labels = example_tokens(n, seed=step)
    return {"tokens": tokens.reshape(n, -1).astype(np.int32), "label": labels.astype(np.int32)}


def train(engine, steps, *, recorded=True, make=batch_of):
    """Run the steps; returns the metrics of each."""
    return run_steps(
        engine,
        steps,
        make,
        lambda step: {"learning_rate": 0.005 * min(1, step / 5), "ema_decay": min(0.9, step / 10)},
        partial(recorded_noise, engine) if recorded else None,
    )


@pytest.fixture(scope="module")
def curves(users_compiler):
    with users_compiler():
        return {twin: train(make_engine(twin, *DROPOUT), range(N))["loss"] for twin in TWINS}


def test_a_hundred_steps_have_the_same_losses(curves):
    assert_curves_agree(curves, fall=0.8)


TRAINED = [
    DROPOUT,
    ("loss.normalisation=pictures", "loss.min_masking_rate=0.5"),
    ("loss.normalisation=all", "loss.masking=bernoulli", "loss.mask_schedule=arccos"),
    seldom("loss.predict_all_tokens=True", "loss.mask_contiguous_region_prob=0.5"),
    seldom("loss.noise_type=random_replace", "loss.mask_schedule=pow2"),
    seldom("loss.no_mask_token_prob=0.3", "optimizer.type=Lion"),
    seldom("model.self_cond=True", "loss.self_cond_prob=0.5"),
    seldom("model.critic=self", *DROPOUT),
    ("model.critic=token", "loss.critic_loss_weight=0.5", *DROPOUT),
    seldom("model.architecture=google", *DROPOUT),
    seldom("model.architecture=halton", "train.accumulation_steps=2"),
    ("model.architecture=lucidrains", "model.critic=self", "model.self_cond=True", *UNCONDITIONAL),
    (
        "model.architecture=uvitbert",
        "data.grid=0",
        f"data.sequence_length={GRID**2}",
        "loss.loss_weight_unmasked_token=0.1",
        "loss.normalisation=pictures",
    ),
    (
        "model.architecture=lfqbert",
        "loss.sum_splits=True",
        "loss.normalisation=all",
        "loss.masking=bernoulli",
    ),
]


@pytest.mark.parametrize("options", TRAINED, ids=" ".join)
def test_steps_in_float64_agree_to_rounding(options):
    state = assert_steps_agree(make_engine, train, *options)
    moved = [np.abs(array).max() > 0 for array in state["optimizer"].values()]
    assert np.mean(moved) > 0.4  # Lion has no second moments


def test_bfloat16_stays_near_float32(curves):
    for twin in TWINS:
        losses = train(make_engine(twin, "train.precision=bfloat16", *DROPOUT), range(3))["loss"]
        np.testing.assert_allclose(losses, curves[twin][:3], rtol=1e-2)


@pytest.mark.parametrize(("first", "second"), [*product(TWINS, TWINS)])
def test_a_run_continues_in_either_twin(curves, first, second):
    assert_goes_on(make_engine, train, (first, second), curves[first], *DROPOUT)


@pytest.mark.parametrize("twin", TWINS)
def test_generated_noise_is_a_function_of_seed_and_step(twin):
    losses = [train(make_engine(twin, *DROPOUT), range(2), recorded=False)["loss"] for _ in range(2)]
    np.testing.assert_array_equal(*losses)
    drawn = [
        make_engine(twin).run("generate", {"label": np.arange(4)}, ema=False, step=step)["tokens"]
        for step in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return write_tokenizer(tmp_path_factory.mktemp("run"))


def trained(tokenizer, *overrides):
    """Both engines after three steps, taken by one of them, since sampling is compared."""
    engines = {
        twin: make_engine(twin, f"data.tokenizer_path={tokenizer}", *CERTAIN, *overrides) for twin in TWINS
    }
    train(engines["torch"], range(3))
    engines["jax"].state_from_numpy(engines["torch"].state_to_numpy())
    return engines


def asked_of(engine):
    """Conditions of three pictures."""
    return {"label": np.array([1, 5, 8])} if engine.hparams.model.num_classes else {"index": np.arange(3)}


def assert_equal_results(results):
    """The same tokens; pictures at most one level apart, other numbers nearly equal."""
    assert set(results["torch"]) == set(results["jax"])
    for name, array in results["torch"].items():
        other = results["jax"][name]
        assert (array.shape, array.dtype) == (other.shape, other.dtype), name
        if name == "image":
            assert np.abs(array.astype(int) - other).max() <= 1
        elif array.dtype.kind == "f":
            np.testing.assert_allclose(array, other, rtol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(array, other, err_msg=name)
    return results["torch"]


SAMPLED = [
    (),
    seldom("synthesis.guidance_scale=0.", "synthesis.remask=confidence"),
    seldom("synthesis.sampler=scores", "synthesis.guidance_schedule=linear"),
    ("synthesis.sampler=scores", "model.critic=token", "synthesis.critic_noise_scale=0"),
    ("synthesis.sampler=halton", "model.architecture=halton"),
    seldom("synthesis.sampler=halton_confidence", "model.self_cond=True"),
    (
        "model.architecture=lucidrains",
        "model.self_cond=True",
        *UNCONDITIONAL,
        "synthesis.guidance_scale=0.",
    ),
    ("model.architecture=bert", "model.codebook_splits=4"),
    seldom(
        "model.architecture=uvitbert",
        "synthesis.sampler=logits",
        "synthesis.guidance_schedule=power_cosine",
        "synthesis.guidance_time=before",
        "synthesis.softmax_temperature=[1.3, 0.5]",
    ),
]


@pytest.mark.parametrize("options", SAMPLED, ids=" ".join)
def test_sampling_draws_the_same_tokens_and_pictures(tokenizer, options):
    engines = trained(tokenizer, *options)
    asked = asked_of(engines["torch"])
    drawn = assert_equal_results(
        {
            twin: engine.run("generate", asked, ema=True, step=0, every_step=True)
            for twin, engine in engines.items()
        }
    )
    T = 3
    assert drawn["tokens"].shape == (3, GRID**2)
    assert (drawn["tokens"] >= 0).all()
    assert (drawn["tokens"] < CODES).all()
    assert drawn["image"].shape == (3, 8, 8, 1)
    assert drawn["steps"].shape == drawn["masked"].shape == (3, T, GRID**2)
    n_masked = drawn["masked"].sum(-1)
    # A token counts as masked until the last of its groups is known.
    assert (np.diff(n_masked) < int(engines["torch"].family.plan.splits > 1)).all()
    assert not n_masked[:, -1].any()

    given = batch_of(7, 3) | {"unknown": np.tile(np.arange(GRID**2) % 3 == 0, (3, 1))}
    given = given if "label" in asked else {name: given[name] for name in ("tokens", "unknown")}
    filled = assert_equal_results(
        {twin: engine.run("inpaint", given, ema=True, step=0) for twin, engine in engines.items()}
    )
    known = ~given["unknown"]
    np.testing.assert_array_equal(filled["tokens"][known], given["tokens"][known])
    assert (filled["tokens"] < CODES).all()


def test_the_tokenizer_is_the_same_with_both_models(tokenizer):
    engines = trained(tokenizer)
    image, mask = pictures(0, 5), np.tile(np.arange(GRID**2) % 2 == 0, (5, 1))
    encoded = assert_equal_results(
        {twin: e.run("encode", {"image": image}, ema=True, step=0) for twin, e in engines.items()}
    )
    assert len(np.unique(encoded["tokens"])) > 3
    assert_equal_results({twin: e.run("decode", encoded, ema=True, step=0) for twin, e in engines.items()})
    label = np.arange(5)
    for given in ({"image": image}, encoded):
        batch = {**given, "label": label, "mask": mask}
        found = assert_equal_results(
            {twin: e.run("evaluate", batch, ema=True, step=0) for twin, e in engines.items()}
        )
        assert np.isfinite(found["cross_entropy"]).all()
        if "image" in given:
            of_pictures = found
    np.testing.assert_array_equal(found["cross_entropy"], of_pictures["cross_entropy"])


def labelled_pictures(step):
    return {"image": pictures(step), "label": np.arange(BATCH)}


def test_pictures_are_encoded_on_the_way(tokenizer):
    def of_tokens(step):
        encoded = engine.run("encode", {"image": pictures(step)}, ema=False, step=0)
        return {**encoded, "label": np.arange(BATCH)}

    for twin in TWINS:
        engine = make_engine(twin, f"data.tokenizer_path={tokenizer}")
        losses = train(engine, range(3), make=labelled_pictures)["loss"]
        engine.initialise()
        np.testing.assert_allclose(train(engine, range(3), make=of_tokens)["loss"], losses, rtol=1e-6)


def test_soft_targets_are_the_same_in_both_twins(tokenizer):
    losses = {}
    for twin in TWINS:
        engine = make_engine(
            twin,
            f"data.tokenizer_path={tokenizer}",
            "data.dataset_source=digits",
            "train.precision=float64",
            "loss.use_soft_code_target=True",
            "loss.soft_code_temp=2.",
        )
        losses[twin] = train(engine, range(3), make=labelled_pictures)
    for name, values in losses["torch"].items():
        np.testing.assert_allclose(losses["jax"][name], values, rtol=1e-8, atol=1e-12, err_msg=name)
