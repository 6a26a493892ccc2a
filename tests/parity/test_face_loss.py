"""Custom training loops: the interface's loss is the engine's, and its gradients train the model."""

from functools import partial
from importlib import import_module

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

from dioscuri import UserError
from dioscuri.hparams import load
from jax_impl.optim.flat import canonical_name
from tests.support import faces, sections, tiny, tiny_classifier, tiny_maskgit, tiny_sundae, tiny_vqgan

TWINS = ("torch", "jax")
PICTURES = faces.PICTURES[:4]
LABELS = np.array([1, 0, 3, 9], np.int32)
TOKENS = np.random.default_rng(1).integers(0, 16, (4, 16)).astype(np.int32)
CASES = {
    "vae": (tiny.TINY, {"image": PICTURES}, {"beta": 0.5, "gamma": 1.0}),
    "vqgan": (tiny_vqgan.TINY, {"image": PICTURES}, {"adversarial": 0.0}),
    "adversarial": (tiny_vqgan.TINY, {"image": PICTURES}, {"adversarial": 1.0}),
    "maskgit": (tiny_maskgit.TINY, {"tokens": TOKENS, "label": LABELS}, {}),
    "sundae": (tiny_sundae.TINY, {"tokens": TOKENS, "label": LABELS}, {}),
    "classifier": (tiny_classifier.DIGITS.read_text(), {"image": PICTURES, "label": LABELS}, {}),
}


def dio(twin):
    return import_module(f"dioscuri.{twin}")


def loss_of(model, batch, **options):
    """(loss, metrics) as numbers, in either twin."""
    if model.twin == "torch":
        loss, metrics = model.loss(batch, **options)
        return float(loss.detach()), {name: np.asarray(value) for name, value in metrics.items()}
    function = jax.jit(partial(model.loss, **options))
    loss, metrics = function(model.state, batch, jax.random.key(0))
    return float(loss), {name: np.asarray(value) for name, value in metrics.items()}


@pytest.fixture(scope="module")
def cfgs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cfgs")
    for name, (text, _, _) in CASES.items():
        (folder / f"{name}.cfg").write_text(text)
    return {name: folder / f"{name}.cfg" for name in CASES}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("twin", TWINS)
def test_the_loss_is_that_of_the_trained_loop(cfgs, twin, case):
    batch, schedules = CASES[case][1:]
    hparams = load(cfgs[case])
    model = dio(twin).new(cfgs[case], seed=hparams.run.seed)
    noise = model.draw_noise("train_step", len(PICTURES), seed=3)
    found, metrics = loss_of(model, batch, noise=noise, schedules=schedules)
    engine = import_module(f"{twin}_impl.engine").Engine(hparams)
    engine.initialise()
    scalars = {"learning_rate": 1e-3, "ema_decay": 0.5, **schedules}
    engine.train_step(batch, 0, scalars, noise)
    expected = engine.fetch_metrics()
    assert found == pytest.approx(expected["loss"], rel=1e-5)
    for name, value in metrics.items():
        if value.ndim == 0:
            assert value == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name


def test_a_loop_in_torch_learns_a_batch(cfgs):
    torch.manual_seed(0)
    model = dio("torch").new(cfgs["maskgit"])
    optimizer = torch.optim.AdamW(model.module.parameters(), lr=1e-2)
    batch, losses = model.batch(tokens=TOKENS, classes=LABELS), []
    for _ in range(30):
        loss, _ = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


def test_a_loop_in_jax_learns_a_batch(cfgs):
    model = dio("jax").new(cfgs["maskgit"])
    optimizer = optax.adamw(1e-2)
    state, moments = model.state, optimizer.init(model.state)
    gradient = jax.jit(jax.value_and_grad(model.loss, has_aux=True))
    batch, losses = model.batch(tokens=TOKENS, classes=LABELS), []
    for i in range(30):
        (loss, _), grads = gradient(state, batch, jax.random.key(i))
        updates, moments = optimizer.update(grads, moments, state)
        state = optax.apply_updates(state, updates)
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    before = model._network.weights()
    model.state = state
    assert any((before[name] != array).any() for name, array in model._network.weights().items())


@pytest.mark.parametrize("twin", TWINS)
def test_schedules_have_their_final_values_unless_they_are_given(cfgs, twin):
    model, batch = dio(twin).new(cfgs["vae"]), {"image": PICTURES}
    noise = model.draw_noise("train_step", len(PICTURES))
    given = (None, {"beta": 1.0, "gamma": 0.0}, {"beta": 0.5})
    none, end, half = (loss_of(model, batch, noise=noise, schedules=values)[0] for values in given)
    assert none == end != half


def test_pictures_are_tokens_to_a_model_with_a_tokenizer(tmp_path):
    runs = faces.runs(tmp_path)
    found = {}
    for twin in TWINS:
        model = dio(twin).load(runs["maskgit"])
        tokens = model.encode(PICTURES)
        noise = model.draw_noise("train_step", len(PICTURES))
        batches = model.batch(PICTURES, classes=LABELS), model.batch(tokens=tokens, classes=LABELS)
        losses = [loss_of(model, batch, noise=noise)[0] for batch in batches]
        # Kernels may add up in another order where an array lies at another address.
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        found[twin] = losses[0]
    assert found["torch"] == pytest.approx(found["jax"], rel=1e-4)


def test_pictures_are_the_tokens_of_a_tokenizer_that_has_just_been_trained(tmp_path):
    text = sections.merged(tiny_vqgan.AVERAGED, "[model]\nema_decay = 0.1")
    vq = dio("torch").new(sections.write("ema.cfg", text, tmp_path))
    model = dio("torch").new("maskgit", tokenizer=vq, **faces.SMALL)
    before, noise = vq.encode(PICTURES), model.draw_noise("train_step", len(PICTURES))
    vq.loss({"image": PICTURES})
    of_pictures = loss_of(model, model.batch(PICTURES), noise=noise)[0]
    after = vq.encode(PICTURES)
    assert (before != after).any()
    assert of_pictures == pytest.approx(loss_of(model, model.batch(tokens=after), noise=noise)[0], rel=1e-6)


def test_a_batch_within_jit_is_as_a_checked_one_or_refused(cfgs):
    vae, gen = dio("jax").new(cfgs["vae"]), dio("jax").new(cfgs["maskgit"])
    for model, batch, says in (
        (
            vae,
            {"image": PICTURES / 255},
            r"'image' must be uint8 \(4, 8, 8, 1\), .*; got float(32|64) \(4, 8, 8, 1\)",
        ),
        (
            vae,
            {"image": PICTURES[..., 0]},
            r"'image' must be uint8 \(4, 8, 8, 1\), .*; got uint8 \(4, 8, 8\)",
        ),
        (vae, {"image": PICTURES[:, :5]}, r"pictures must be .* got uint8 \(4, 5, 8, 1\)"),
        (gen, {"tokens": TOKENS.reshape(4, 4, 4), "label": LABELS}, r"'tokens' must be int32 \(4, 16\)"),
        (gen, {"tokens": TOKENS / 2, "label": LABELS}, r"tokens must be whole numbers .*; got float(32|64)"),
    ):
        with pytest.raises(UserError, match=says):
            jax.jit(model.loss)(model.state, batch, jax.random.key(0))


def test_a_state_stays_as_it_was_read(cfgs):
    model = dio("jax").new(cfgs["classifier"])
    before = model.state
    model.state = jax.tree.map(jnp.zeros_like, before)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(model.state))
    assert any((leaf != 0).any() for leaf in jax.tree.leaves(before))


def test_a_tokenizer_keeps_its_precision(tmp_path):
    runs = faces.runs(tmp_path)
    vq = dio("jax").load(runs["vqgan"], dtype="float64")
    model = dio("jax").load(runs["maskgit"], tokenizer=vq)
    noise = model.draw_noise("train_step", len(PICTURES))
    batches = model.batch(PICTURES, classes=LABELS), model.batch(tokens=vq.encode(PICTURES), classes=LABELS)
    key = jax.random.key(0)
    losses = [float(model.loss(model.state, batch, key, noise=noise)[0]) for batch in batches]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_noise_follows_from_torchs_generator_or_from_the_key(cfgs):
    model, batch = dio("torch").new(cfgs["maskgit"]), {"tokens": TOKENS, "label": LABELS}
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        losses.append(loss_of(model, batch)[0])
    assert losses[0] == losses[1] != losses[2]
    model = dio("jax").new(cfgs["maskgit"])
    for state, key, says in (
        (None, jax.random.key(0), "state must be .* shapes of model.state; got None with 0"),
        (jax.tree.map(lambda x: x[None], model.state), jax.random.key(0), "got a State with"),
        (model.state, 0, r"loss takes a key, such as jax.random.key\(0\), not 0"),
    ):
        with pytest.raises(UserError, match=says):
            model.loss(state, batch, key)
    with pytest.raises(UserError, match="got a dict with 1"):
        model.state = {"layers": np.zeros(3)}
    losses = [float(model.loss(model.state, batch, jax.random.key(seed))[0]) for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_averages_of_a_codebook_are_kept(tmp_path):
    """Three steps of a loop of one's own, in both twins, beside the engine's."""
    cfg = sections.write("ema.cfg", tiny_vqgan.AVERAGED, tmp_path)
    hparams, batch = load(cfg), {"image": PICTURES}
    engine = import_module("torch_impl.engine").Engine(hparams)
    engine.initialise()
    for step in range(3):
        scalars = {"learning_rate": 0.0, "gumbel_temperature": 1.0, "adversarial": 1.0}
        engine.train_step(batch, step, scalars, {})
    expected = engine.state_to_numpy()["model"]["quantize.embedding.weight"]
    assert (dio("torch").new(cfg)._network.weights()["quantize.embedding.weight"] != expected).all()
    model = dio("torch").new(cfg, seed=hparams.run.seed)
    for _ in range(3):
        model.loss(batch)
    np.testing.assert_allclose(model._network.weights()["quantize.embedding.weight"], expected, rtol=1e-5)
    pure = dio("jax").new(cfg, seed=hparams.run.seed)
    state, buffers, loss = pure.state, pure.buffers, jax.jit(pure.loss)
    for step in range(3):
        buffers = loss(state, batch, jax.random.key(step), buffers)[1]["buffers"]
        state = pure.with_buffers(state, buffers)
    pure.state, pure.buffers = state, buffers
    np.testing.assert_allclose(
        pure._network.weights()["quantize.embedding.weight"], expected, rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("debiased", [False, True])
def test_a_trained_codebook_is_the_start_of_its_averages(tmp_path, debiased):
    """Not first values drawn anew, which one step would put in the place of all codes."""
    name, words = "quantize.embedding.weight", f"[model]\nema_debiased = {debiased}"
    cfg = sections.write("ema.cfg", sections.merged(tiny_vqgan.AVERAGED, words), tmp_path)
    dio("torch").new(cfg, seed=5).save(tmp_path / "saved")
    before = dio("torch").load(tmp_path / "saved")._network.weights()[name]
    for twin in TWINS:
        model = dio(twin).load(tmp_path / "saved")
        if twin == "torch":
            model.loss({"image": PICTURES})
        else:
            _, metrics = model.loss(model.state, {"image": PICTURES}, jax.random.key(0))
            model.state = model.with_buffers(model.state, metrics["buffers"])
        moved = np.abs(model._network.weights()[name] - before).max(1)
        assert moved.max() > 0
        assert np.median(moved) < 0.1 * np.abs(before).max()


@pytest.mark.parametrize("twin", TWINS)
def test_the_gradient_of_a_tokenizer_moves_each_network_by_its_losses(cfgs, twin):
    model, names = (
        dio(twin).new(cfgs["adversarial"]),
        ("encoder.conv_in.weight", "discriminator.main.0.weight"),
    )
    for adversarial in (0.0, 1.0):
        gradients = {name: gradient_of(model, name, schedules={"adversarial": adversarial}) for name in names}
        assert gradients[names[0]].any()
        assert gradients[names[1]].any() == bool(adversarial)


def gradient_of(model, name, **options):
    """The gradient of the loss with respect to one parameter."""
    batch, noise = {"image": PICTURES}, model.draw_noise("train_step", len(PICTURES))
    if model.twin == "torch":
        model.module.zero_grad()
        model.loss(batch, noise=noise, **options)[0].backward()
        gradient = model.module.get_parameter(name).grad
        return np.zeros(1) if gradient is None else gradient.numpy()
    loss = partial(model.loss, noise=noise, **options)
    grads = jax.jit(jax.grad(loss, has_aux=True))(model.state, batch, jax.random.key(0))[0]
    ((leaf, *_),) = ([leaf for path, leaf in nnx.to_flat_state(grads) if canonical_name(path) == name],)
    return np.asarray(leaf[...])


def test_a_saved_tokenizer_has_no_discriminator(cfgs, tmp_path):
    model = dio("torch").new(cfgs["adversarial"])
    model.save(tmp_path / "saved")
    loaded = dio("jax").load(tmp_path / "saved")
    names = set(model._network.weights()) - set(loaded._network.weights())
    assert names == {name for name in model._network.weights() if name.startswith("discriminator.")} != set()
    assert loaded.hparams.discriminator.type == "none"


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"class": LABELS, "tokens": TOKENS}, "batch entry 'class' is unknown"),
        ({"labels": LABELS, "tokens": TOKENS}, r"did you mean 'label'\?"),
        ({"tokens": TOKENS + 4096, "label": LABELS}, "got numbers from"),
        ({"tokens": TOKENS, "label": LABELS + 99}, "the model has 10 classes"),
        ({"tokens": TOKENS[:3], "label": LABELS}, "tokens has 3, label has 4"),
        ({"image": PICTURES, "label": LABELS}, "has no tokenizer"),
        ({}, "the batch is empty: give"),
        ({"tokens": TOKENS}, "the batch has no classes: give"),
        ({"label": LABELS}, "the batch has no examples: give image or tokens"),
        ({"tokens": TOKENS, "image": PICTURES}, "two kinds of examples: give image or tokens"),
        (TOKENS, "loss takes a mapping, not an array"),
    ],
)
@pytest.mark.parametrize("twin", TWINS)
def test_a_wrong_batch_is_one_line(cfgs, twin, batch, says):
    model = dio(twin).new(cfgs["maskgit"])
    with pytest.raises(UserError, match=says) as refused:
        model.loss(*((batch,) if twin == "torch" else (model.state, batch, jax.random.key(0))))
    assert "\n" not in str(refused.value)


def test_a_wrong_call_is_one_line(cfgs):
    model = dio("torch").new(cfgs["vae"])
    with pytest.raises(UserError, match=r"loss takes loss\(batch\), not 3 arguments"):
        model.loss(None, {"image": PICTURES}, None)
    with pytest.raises(UserError, match="schedule 'betta' is unknown"):
        model.loss({"image": PICTURES}, schedules={"betta": 1.0})
    for value in (float("nan"), -1, 10**400, "x", None, torch.ones(2)):
        with pytest.raises(UserError, match="schedule 'beta' must be a finite number of at least 0, not"):
            model.loss({"image": PICTURES}, schedules={"beta": value})
    noise = model.draw_noise("train_step", len(PICTURES))
    with pytest.raises(UserError, match="the batch has pictures and 'image', which are the same"):
        model.batch(PICTURES, image=PICTURES)
    with pytest.raises(UserError, match=r"buffers must be arrays by name, .*: none"):
        model.buffers = {"cluster_size": np.ones(3)}
    with pytest.raises(UserError, match="schedules must be numbers by name, not 3"):
        model.loss({"image": PICTURES}, schedules=3)
    with pytest.raises(UserError, match=r"noise must have the arrays .*; got an int"):
        model.loss({"image": PICTURES}, noise=3)
    noise["posterior.0"][0] = np.inf
    with pytest.raises(UserError, match=r"noise 'posterior\.0' holds values that are not finite"):
        model.loss({"image": PICTURES}, noise=noise)
    with pytest.raises(UserError, match=r"noise must have the arrays posterior\.0"):
        model.loss({"image": PICTURES}, noise={})
