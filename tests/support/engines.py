"""Engines, batches and noise for tests: the tiny hierarchical VAE on smooth random pictures."""

from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from tests.support.tiny import write_tiny

BATCH = 8


def tiny(*overrides):
    """Options of the tiny model."""
    with TemporaryDirectory() as folder:
        return load(write_tiny(Path(folder)), overrides)


def engine_of(twin, hparams):
    """An engine of a twin, 'torch' or 'jax', without parameters."""
    return import_module(f"{twin}_impl.engine").Engine(hparams)


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
    losses = []
    for step in steps:
        noise = posterior_noise(step) if recorded else None
        engine.train_step({"image": pictures(step)}, step, scalars(step), noise)
        losses.append(engine.fetch_metrics()["loss"])
    return np.array(losses)


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
