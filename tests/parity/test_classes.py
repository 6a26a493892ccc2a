"""VAEs with classes: both twins train, guide and refuse alike, and the class does what it promises."""

from copy import deepcopy
from importlib import import_module

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import save

from dioscuri import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.modes.encodings import architecture_hash
from dioscuri.importers.efficient_vdvae_names import key_table
from tests.parity.test_metroplex_training import ATTENTION, TINY, digits
from tests.support import engines
from tests.support.engines import BATCH, assert_states_close, assert_states_equal, pictures, recorded_noise
from torch_impl.samplers.ancestral import guided_layer

TWINS = ("torch", "jax")
CLASSES = ("model.num_classes=3", "data.labels=True", "loss.cond_dropout_prob=0.4")
CASES = {
    "hierarchical_vae": (engines.tiny, CLASSES),
    "convolutions": (digits, (*TINY, *CLASSES)),
    "attention": (digits, (*ATTENTION, *CLASSES)),
}
LABELS = np.arange(BATCH, dtype=np.int32) % 3
SCALARS = {"learning_rate": 0.01, "beta": 0.5, "gamma": 0.0}


def make_engine(case, twin, *overrides):
    options, words = CASES[case]
    return engines.make_engine(twin, *words, *overrides, options=options)


def train(engine, steps, labels=LABELS, drop=None):
    """Losses of the steps; `drop` (B,) replaces the uniforms that decide whose class is dropped."""
    losses = []
    for step in steps:
        noise = recorded_noise(engine, step)
        noise = noise if drop is None else {**noise, "drop": drop}
        engine.train_step({"image": pictures(step), "label": labels}, step, SCALARS, noise)
        losses.append(engine.fetch_metrics()["loss"])
    return np.array(losses)


def noise_of(engine, method, **options):
    rng = np.random.default_rng(7)
    specs = engine.family.noise_specs(method, BATCH, **options)
    draws = {"normal": rng.standard_normal, "uniform": lambda shape: rng.uniform(0.01, 0.99, shape)}
    return {spec.name: draws[spec.kind](spec.shape) for spec in specs}


def generate(engine, labels=LABELS, **options):
    """Pictures (B, H, W, C) of classes, with the same noise in every call."""
    noise = noise_of(engine, "generate", output="sample")
    temperatures = np.full(len(engine.family.plan.groups), 0.9)
    call = {"ema": False, "step": 0, "noise": noise, "temperatures": temperatures, "output": "sample"}
    return engine.run("generate", {"label": labels}, **call, **options)["image"].astype(int)


def evaluate(engine, **label):
    batch = {"image": pictures(0), **label}
    terms = engine.run("evaluate", batch, ema=False, step=0, noise=noise_of(engine, "evaluate"))
    return terms["reconstruction"] + terms["kl"].sum(1)


@pytest.fixture(scope="module", params=CASES)
def trained(request):
    """Engines of both twins in float64 after two steps, and what they computed on the way."""
    made = {twin: make_engine(request.param, twin, "train.precision=float64") for twin in TWINS}
    return made, {twin: train(engine, range(2)) for twin, engine in made.items()}


def test_losses_and_gradients_agree_in_float64(trained):
    made, losses = trained
    np.testing.assert_allclose(losses["torch"], losses["jax"], rtol=1e-9)
    states = [made[twin].state_to_numpy() for twin in TWINS]
    assert_states_close(*states, 1e-9)  # the moments are averages of gradients
    names = [name for name in states[0]["optimizer"] if "class_" in name]
    assert len(names) == 2 * (1 + len(made["torch"].family.plan.groups))
    assert all(np.abs(states[0]["optimizer"][name]).max() > 0 for name in names)


def test_states_are_the_same_files_in_both_twins(trained):
    made, _ = trained
    state = made["torch"].state_to_numpy()
    made["jax"].state_from_numpy(state)
    files = [
        {group: save(tensors) for group, tensors in twin.items()}
        for twin in (state, made["jax"].state_to_numpy())
    ]
    assert files[0] == files[1]


def test_guided_samples_agree(trained):
    made, _ = trained
    made["jax"].state_from_numpy(made["torch"].state_to_numpy())
    samples = [generate(made[twin], guidance_scale=1.5) for twin in TWINS]
    assert np.abs(samples[0] - samples[1]).max() <= 1


@pytest.mark.parametrize("twin", TWINS)
def test_a_run_goes_on_bit_for_bit(trained, twin):
    engine = trained[0][twin]
    saved, ends = deepcopy(engine.state_to_numpy()), []
    for _ in range(2):
        engine.state_from_numpy(saved)
        train(engine, range(2, 4))
        ends.append(deepcopy(engine.state_to_numpy()))
    assert_states_equal(*ends)


def test_the_class_matters_and_its_lack_is_a_class_of_its_own(trained):
    engine = trained[0]["torch"]
    bound, other = evaluate(engine, label=LABELS), evaluate(engine, label=(LABELS + 1) % 3)
    none, null = evaluate(engine), evaluate(engine, label=np.full(BATCH, 3, np.int32))
    np.testing.assert_array_equal(none, null)
    assert (bound != other).all()
    assert (bound != none).all()


def test_guidance_moves_samples_and_vanishes_with_its_scale(trained):
    engine = trained[0]["torch"]
    assert (generate(engine) != generate(engine, guidance_scale=20.0)).any()
    noise = {name: torch.tensor(array) for name, array in noise_of(engine, "generate").items()}
    model, temperatures = engine.models[False], torch.ones(len(engine.family.plan.groups))
    label = torch.from_numpy(LABELS)
    with torch.no_grad():
        guided = guided_layer(model, noise, temperatures, (label, torch.full_like(label, 3)), 0.0)
        plain, _ = model.generate(noise, temperatures, label=label)
    np.testing.assert_allclose(guided, plain, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("base", ["std", "logstd"])
def test_guidance_is_the_formula_in_both_twins(base):
    """Mean and log scale are without + factor (with - without), but no scale exceeds that with the class."""
    options = digits().model if base == "logstd" else engines.tiny().model
    rng, factor = np.random.default_rng(0), 2.5
    mean, log = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4, 3))
    expected = mean[1] + factor * (mean[0] - mean[1]), log[1] + factor * (log[0] - log[1])
    expected = expected[0], np.minimum(log[0], expected[1])
    for twin, array in (("torch", torch.from_numpy), ("jax", jnp.asarray)):
        latents = import_module(f"{twin}_impl.layers.latents")
        scale = log if base == "logstd" else np.exp(log)
        given = latents.Gaussian(array(mean.reshape(8, 3)), array(scale.reshape(8, 3)))
        actual = [np.asarray(part) for part in latents.guided(given, factor, options)]
        logs = actual[1] if base == "logstd" else np.log(actual[1])
        for half in (slice(4), slice(4, 8)):
            np.testing.assert_allclose(actual[0][half], expected[0], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(logs[half], expected[1], rtol=1e-5, atol=1e-5)
        assert np.isfinite(np.asarray(latents.guided(given, 1e4, options).scale)).all()


def test_dropped_classes_are_not_seen():
    never, always = np.full(BATCH, 0.9), np.zeros(BATCH)
    losses = {
        (labels.tobytes(), drop[0]): train(make_engine("hierarchical_vae", "torch"), [0], labels, drop)[0]
        for labels in (LABELS, np.roll(LABELS, 1))
        for drop in (never, always)
    }
    seen, hidden = ({loss for (_, drop), loss in losses.items() if drop == d} for d in (0.9, 0.0))
    assert len(seen) == 2
    assert len(hidden) == 1


def test_without_classes_nothing_is_new():
    """Neither parameters nor draws, and encodings that were made before there were classes still fit."""
    for case in CASES:
        family = make_engine(
            case, "torch", "model.num_classes=0", "data.labels=False", "loss.cond_dropout_prob=0."
        ).family
        assert not [name for name in family.parameter_shapes() if "class" in name]
        assert "drop" not in {spec.name for spec in family.noise_specs("train_step", 4)}
    before = "5db88192c44ba3506329a907426f764491fbbdb2010344b8dd6384b0d33ec86d"
    assert architecture_hash(engines.plan()) == before


def test_the_original_program_has_no_classes_to_convert():
    with pytest.raises(UserError, match=r"num_classes must be 0: Efficient-VDVAE has no classes"):
        key_table(make_plan(engines.tiny(*CLASSES)))


@pytest.fixture(scope="module")
def model():
    """Models of both twins with the same first weights."""
    sizes = {"target_res": 8, "channels": 1, "width": 8, "depth": 1, "zdim": 2, "num_mixtures": 2}
    return {
        twin: import_module(f"dioscuri.{twin}").new("metroplex", seed=0, num_classes=3, **sizes)
        for twin in TWINS
    }


def test_a_model_takes_classes_in_every_call(model):
    noise = model["torch"].draw_noise("generate", 3, seed=1, output="sample")
    made = [model[twin].generate(classes=[2, 0, 1], noise=noise, guidance_scale=1.0) for twin in TWINS]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1
    one = model["torch"]
    assert (one.num_classes, one.hparams.data.labels, one.hparams.loss.cond_dropout_prob) == (3, True, 0.1)
    in_turn = one.generate(4, noise=one.draw_noise("generate", 4, output="sample"))
    asked = one.generate(classes=[0, 1, 2, 0], noise=one.draw_noise("generate", 4, output="sample"))
    np.testing.assert_array_equal(in_turn, asked)
    images = pictures(0)
    with_class, without = (one.bound(images, **given).elbo for given in ({"classes": 2}, {}))
    assert (with_class != without).all()
    latents = one.encode(images, classes=LABELS)
    assert (latents["mean.0"] != one.encode(images)["mean.0"]).any()
    z = {name: array for name, array in latents.items() if name.startswith("z.")}
    decoded = one.decode(z, classes=LABELS, output="mean")
    np.testing.assert_array_equal(decoded, one.reconstruct(images, classes=LABELS, output="mean"))
    film = one.interpolate(images[0], images[1], n=2, classes=1, classes_b=2, output="mean")
    ends = [one.reconstruct(images[n : n + 1], classes=n + 1, output="mean")[0] for n in (0, 1)]
    np.testing.assert_array_equal(film, ends)
    mixed = one.mix(images[0], images[1], [0, len(one.plan.groups)], classes=1, classes_b=2, output="mean")
    np.testing.assert_array_equal(mixed, ends[::-1])
    loss, _ = one.loss(one.batch(images, classes=LABELS))
    loss.backward()
    assert one.module.top_down.class_emb.weight.grad.abs().max() > 0


def test_pictures_are_compressed_without_their_classes(model):
    images = pictures(0, batch=2)
    data = model["torch"].compress(images)
    np.testing.assert_array_equal(model["torch"].decompress(data), images)


@pytest.mark.parametrize("twin", TWINS)
def test_a_saved_model_keeps_its_classes(model, twin, tmp_path):
    model["torch"].save(tmp_path / "mine")
    opened = import_module(f"dioscuri.{twin}").load(tmp_path / "mine")
    assert opened.num_classes == 3
    noise = opened.draw_noise("generate", 2, seed=3, output="sample")
    made = [one.generate(classes=1, n=2, noise=noise) for one in (opened, model["torch"])]
    assert np.abs(made[0].astype(int) - made[1]).max() <= 1


@pytest.mark.parametrize("twin", TWINS)
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.generate(classes=99), "classes holds 99: the model has 3 classes, counted from 0"),
        (lambda m: m.generate(classes=-1), "classes holds -1"),
        (lambda m: m.encode(pictures(0), classes=[0, 1]), "classes holds 2 classes for 8 pictures"),
        (lambda m: m.bound(pictures(0), classes=0.5), "classes must be whole numbers"),
        (lambda m: m.generate(classes=1, guidance_scale=-1), "guidance_scale"),
        (lambda m: m.generate(classes=1, guidance=2), "did you mean 'guidance_scale'"),
        (lambda m: m.batch(pictures(0)), "the batch has no classes"),
        (lambda m: m.batch(pictures(0), classes=np.full(8, 3)), "label holds 3"),
    ],
)
def test_wrong_classes_are_one_line(model, twin, call, says):
    with pytest.raises(UserError, match=says) as refused:
        call(model[twin])
    assert "\n" not in str(refused.value)


def test_a_model_that_always_had_classes_needs_them(tmp_path):
    dio = import_module("dioscuri.torch")
    sizes = {"target_res": 8, "channels": 1, "width": 8, "depth": 1, "zdim": 2}
    one = dio.new("metroplex", num_classes=3, cond_dropout_prob=0.0, **sizes)
    with pytest.raises(UserError, match="encode needs classes: give one for each picture, or one for all"):
        one.encode(pictures(0))
    with pytest.raises(UserError, match="cannot compress: it needs the class of every picture"):
        one.compress(pictures(0))
    assert "compress" not in one.does
    with pytest.raises(UserError, match=r"generate: .*also trained without classes"):
        one.generate(classes=1, guidance_scale=1.0)
    plain = dio.new("metroplex", **sizes)
    with pytest.raises(UserError, match="the model has no classes: leave it out"):
        plain.generate(classes=1)
    with pytest.raises(UserError, match="needs a model with classes"):
        plain.generate(guidance_scale=1.0)
