"""Engines, batches and noise for tests: the tiny hierarchical VAE on smooth random pictures."""

from functools import cache
from importlib import import_module

import numpy as np
from safetensors.numpy import save

from dioscuri.families.hierarchical_vae.plan import make_plan
from tests.support.tiny import tiny

BATCH = 8


def engine_of(twin, hparams):
    """An engine of a twin, 'torch' or 'jax', without parameters."""
    return import_module(f"{twin}_impl.engine").Engine(hparams)


def inference_engine_of(twin, hparams):
    """The engine of a twin that holds one set of weights, without parameters."""
    return import_module(f"{twin}_impl.inference_engine").InferenceEngine(hparams)


def make_engine(twin, *overrides, options=tiny):
    """An engine of a twin with initial parameters; `options` turns overrides into its options."""
    engine = engine_of(twin, options(*overrides))
    engine.initialise()
    return engine


def pictures(step, batch=BATCH, side=8, channels=1):
    """Pictures of smooth shapes, uint8 (B, H, W, C)."""
    rng = np.random.default_rng((1, step))
    phase = rng.uniform(0, 3, (batch, 4, 1, 1))
    y, x = np.mgrid[:side, :side] / side
    values = np.sin(phase[:, 0] + 4 * phase[:, 1] * x) * np.cos(phase[:, 2] + 4 * phase[:, 3] * y)
    return np.repeat(((values + 1) * 127.5).astype(np.uint8)[..., None], channels, -1)


@cache
def plan():
    return make_plan(tiny())


def posterior_noise(step, batch=BATCH):
    """Recorded noise of a training step."""
    rng = np.random.default_rng((2, step))
    specs = plan().latent_noise(batch, prior=False, posterior=True)
    return {spec.name: rng.normal(size=spec.shape).astype(np.float32) for spec in specs}


def scalars(step):
    """Values of the schedules: warm-up, and balancing in the first twenty steps."""
    return {
        "learning_rate": 0.002 * min(1, step / 5),
        "beta": min(1.0, 0.1 + step / 50),
        "gamma": float(step < 20),
    }


def train(engine, steps, *, recorded=True):
    """Run the steps; returns their losses."""
    noise_of = posterior_noise if recorded else None
    return run_steps(engine, steps, lambda step: {"image": pictures(step)}, scalars, noise_of)["loss"]


def run_steps(engine, steps, batch_of, scalars_of, noise_of=None):
    """Run the steps on what functions of a step give; returns the metrics of all steps by name."""
    metrics = []
    for step in steps:
        engine.train_step(batch_of(step), step, scalars_of(step), noise_of and noise_of(step))
        metrics.append(engine.fetch_metrics())
    return {name: np.array([of_step[name] for of_step in metrics]) for name in metrics[0]}


def recorded_noise(engine, step, rows=BATCH):
    """Noise of a training step by the engine's specifications, the same for both twins."""
    rng = np.random.default_rng((2, step))
    specs = engine.family.noise_specs("train_step", rows)
    draws = {
        "uniform": lambda spec: rng.uniform(spec.low, spec.high, spec.shape),
        "normal": lambda spec: rng.normal(size=spec.shape),
    }
    return {spec.name: draws[spec.kind](spec).astype(np.float32) for spec in specs}


def assert_curves_agree(curves, fall):
    """Losses of both twins agree within 1e-4 in the first twenty steps, then within 1e-3, and end below a
    fraction of their start."""
    torch, jax = curves["torch"], curves["jax"]
    relative = np.abs(torch - jax) / np.abs(torch)
    assert relative[:20].max() <= 1e-4
    assert relative.max() <= 1e-3
    assert torch[-10:].mean() < fall * torch[:10].mean()


def assert_steps_agree(make, train, *options):
    """Three steps in float64 give equal metrics and states, to rounding; returns a state."""
    states, metrics = {}, {}
    for twin in ("torch", "jax"):
        engine = make(twin, "train.precision=float64", *options)
        metrics[twin], states[twin] = train(engine, range(3)), engine.state_to_numpy()
    for name, values in metrics["torch"].items():
        np.testing.assert_allclose(metrics["jax"][name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    assert_states_close(states["torch"], states["jax"], 1e-8)
    return states["torch"]


def assert_goes_on(make, train, twins, losses, *options):
    """A run of the first twin goes on in the second from the same file, with the losses of a whole run; in
    the same twin, bit for bit."""
    first, second = twins
    engine, other = make(first, *options), make(second, "run.seed=99", *options)
    train(engine, range(5))
    state = engine.state_to_numpy()
    other.state_from_numpy(state)
    files = [{group: save(tensors) for group, tensors in s.items()} for s in (state, other.state_to_numpy())]
    assert files[0] == files[1]
    np.testing.assert_allclose(train(other, range(5, 12))["loss"], losses[5:12], rtol=1e-4)
    if first == second:
        train(engine, range(5, 12))
        assert_states_equal(engine.state_to_numpy(), other.state_to_numpy())


def assert_states_equal(left, right):
    """Every tensor and counter of two states is identical."""
    assert {group: set(tensors) for group, tensors in left.items()} == {
        group: set(tensors) for group, tensors in right.items()
    }
    for group, tensors in left.items():
        for name, array in tensors.items():
            np.testing.assert_array_equal(array, right[group][name], err_msg=f"{group} {name}")
            assert array.dtype == right[group][name].dtype


def assert_states_close(left, right, within):
    """Every tensor agrees in relative L2 distance."""
    for group in ("model", "ema", "optimizer"):
        for name, array in left[group].items():
            scale = max(np.linalg.norm(array), 1e-6)
            assert np.linalg.norm(array - right[group][name]) <= within * scale, f"{group} {name}"
