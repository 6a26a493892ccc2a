"""Both engines compared with every value of every option that reaches tensor code."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from dioscuri import schedules
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.plan import level_temperatures
from tests.parity.option_cases import COMPILED, load_case, option_cases

BATCH, STEPS = 4, 3
CASES = list(option_cases())


@dataclass(frozen=True)
class Tolerance:
    """Relative to a tensor's largest value; relative L2 for states after training; levels for pictures."""

    terms: float
    states: float
    pictures: float


# In bfloat16, states and pictures are not compared: rounding at 2^-8 changes the sign of small updates, which
# optimisers scale up to the learning rate, and the most likely component of a mixture.
TOLERANCES = {
    "float64": Tolerance(terms=1e-9, states=1e-9, pictures=1),
    "float32": Tolerance(terms=1e-4, states=1e-4, pictures=1),
    "bfloat16": Tolerance(terms=1e-2, states=np.inf, pictures=np.inf),
}


@pytest.fixture(autouse=True)
def _restore_precision():
    """float64 is a global switch in JAX."""
    before = jax.config.jax_enable_x64, jax.config.jax_default_matmul_precision
    yield
    jax.config.update("jax_enable_x64", before[0])
    jax.config.update("jax_default_matmul_precision", before[1])


def draw(specs, seed):
    """Noise as numpy arrays, in order."""
    rng = np.random.default_rng(seed)
    return {
        spec.name: rng.standard_normal(spec.shape)
        if spec.kind == "normal"
        else rng.uniform(spec.low, spec.high, spec.shape)
        for spec in specs
    }


def exercise(engine, options):
    """Train, then reconstruct and generate without compilation, with the same inputs and noise; results by
    name."""
    plan, synthesis = make_plan(options), options.synthesis
    rng = np.random.default_rng(1)
    shape = (STEPS, BATCH, plan.resolution, plan.resolution, plan.channels)
    pictures = rng.integers(0, 256, shape, dtype=np.uint8)
    masks = [np.arange(block.variates) % 2 for block in plan.down] if synthesis.mask_reconstruction else None
    temperatures = level_temperatures(plan, 0.8)

    def noise(method, **given):
        return draw(engine.family.noise_specs(method, BATCH, **given), seed=len(method))

    engine.initialise()
    results = {}
    for step in range(STEPS):
        scalars = {
            "learning_rate": schedules.learning_rate(step, options.optimizer),
            "beta": schedules.beta(step, options.loss),
            "gamma": schedules.gamma(step, options.loss),
        }
        engine.train_step({"image": pictures[step]}, step, scalars, noise("train_step"))
        results |= {f"step{step}.{name}": value for name, value in engine.fetch_metrics().items()}
    results |= {f"state.{part}.{name}": value for part, tensors in engine.state_to_numpy().items()
                for name, value in tensors.items()}  # fmt: skip
    if options.train.compile:
        return results
    use = {
        "ema": synthesis.load_ema_weights,
        "step": STEPS,
        "output": synthesis.output,
        "output_temperature": 0.9,
    }
    made = engine.run(
        "reconstruct",
        {"image": pictures[0]},
        masks=masks,
        noise=noise("reconstruct", output=synthesis.output),
        **use,
    )
    results |= {f"reconstruct.{name}": value for name, value in made.items()}
    results["generate.image"] = engine.run(
        "generate",
        {"index": np.arange(BATCH)},
        temperatures=temperatures,
        noise=noise("generate", output=synthesis.output),
        **use,
    )["image"]
    return results


def assert_agree(name, ours, theirs, tolerance):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, name
    if name.startswith("state."):
        distance = np.linalg.norm(ours - theirs)
        assert distance == 0 or distance <= tolerance.states * np.linalg.norm(theirs), name
    elif name.endswith(".image"):
        assert np.abs(ours - theirs).max() <= tolerance.pictures, name
    else:
        limit = tolerance.terms * np.abs(theirs).max()
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"case{i}", marks=pytest.mark.slow if case[COMPILED] else ())
        for i, case in enumerate(CASES)
    ],
)
def test_twins_agree_under_every_option(case):
    from jax_impl.engine import Engine as JaxEngine
    from torch_impl.engine import Engine as TorchEngine

    options = load_case(case)
    ours, theirs = (exercise(engine(options), options) for engine in (TorchEngine, JaxEngine))
    assert set(ours) == set(theirs)
    tolerance = TOLERANCES[options.train.precision]
    for name, value in ours.items():
        assert_agree(name, value, theirs[name], tolerance)
