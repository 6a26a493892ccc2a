"""The update rules compared with PyTorch's and optax's, and both twins' steps with each other."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from dioscuri.hparams.sections import Optimizer
from jax_impl.optim import optimizers as jax_optimizers
from jax_impl.optim import step as jax_step
from torch_impl.optim import optimizers as torch_optimizers
from torch_impl.optim import step as torch_step

TORCH = {"Adamax": torch.optim.Adamax, "Adam": torch.optim.Adam}
OPTAX = {
    "Adamax": optax.scale_by_adamax,
    "Adam": optax.scale_by_adam,
    "RAdam": optax.scale_by_radam,
    "Lion": optax.scale_by_lion,
}
BETAS = {"beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8}
LENGTH = 1000
RNG = np.random.default_rng(0)
START = RNG.normal(size=LENGTH).astype(np.float32)
# Gradients over four orders of magnitude, and values without any gradient, as in a dead layer.
GRADS = (RNG.normal(size=(12, LENGTH)) * 10 ** RNG.uniform(-4, 0, LENGTH)).astype(np.float32)
GRADS[:, :10] = 0


def options(rule, **changes):
    values = {
        "type": rule,
        "clip_gradient_norm": False,
        "gradient_clip_norm_value": 1.0,
        "gradient_skip": True,
        "gradient_skip_threshold": 1e6,
        **BETAS,
    }
    return SimpleNamespace(**(values | changes))


def run_torch(optimizer: Optimizer, grads, lr=0.01, ema=0.9, decay=0.0, n_decayed=0):
    state = torch_step.OptimizerState.start(torch.from_numpy(START.copy()))
    settings = torch_step.Settings.make(optimizer, decay, n_decayed)
    rates = torch.tensor(lr), torch.tensor(1 - ema)
    norms = [
        float(torch_step.optimizer_step(state, torch.from_numpy(grad), *rates, settings)) for grad in grads
    ]
    return {name: getattr(state, name).numpy() for name in vars(state)}, norms


def run_jax(optimizer: Optimizer, grads, lr=0.01, ema=0.9, decay=0.0, n_decayed=0):
    state = jax_step.OptimizerState.start(jnp.array(START))
    settings = jax_step.Settings.make(optimizer, decay, n_decayed)
    norms = []
    for grad in grads:
        state, norm = jax_step.optimizer_step(
            state, jnp.array(grad), jnp.float32(lr), jnp.float32(1 - ema), settings
        )
        norms.append(float(norm))
    return {name: np.asarray(value) for name, value in state._asdict().items()}, norms


@pytest.mark.parametrize("run", [run_torch, run_jax])
@pytest.mark.parametrize("rule", TORCH)
def test_rule_equals_pytorch(rule, run):
    parameter = torch.nn.Parameter(torch.from_numpy(START.copy()))
    reference = TORCH[rule](
        [parameter], lr=0.01, betas=(BETAS["beta1"], BETAS["beta2"]), eps=BETAS["epsilon"]
    )
    for grad in GRADS:
        parameter.grad = torch.from_numpy(grad)
        reference.step()
    state, _ = run(options(rule), GRADS)
    np.testing.assert_allclose(state["params"], parameter.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", [run_torch, run_jax])
@pytest.mark.parametrize("rule", OPTAX)
def test_rule_equals_optax(rule, run):
    arguments = {"b1": BETAS["beta1"], "b2": BETAS["beta2"]}
    arguments |= {} if rule == "Lion" else {"eps": BETAS["epsilon"]}
    reference = optax.chain(OPTAX[rule](**arguments), optax.scale(-0.01))
    parameter = jnp.array(START)
    reference_state = reference.init(parameter)
    for grad in GRADS:
        updates, reference_state = reference.update(jnp.array(grad), reference_state)
        parameter = parameter + updates
    state, _ = run(options(rule), GRADS)
    np.testing.assert_allclose(state["params"], np.asarray(parameter), rtol=1e-5, atol=2e-6)


def test_both_spellings_of_radam_are_one_rule():
    for module in (torch_optimizers, jax_optimizers):
        assert module.RULES["Radam"] == module.RULES["RAdam"]


@pytest.mark.parametrize("run", [run_torch, run_jax])
def test_adam_of_tensorflow_adds_epsilon_to_the_uncorrected_root(run):
    beta1, beta2, epsilon = (BETAS[name] for name in ("beta1", "beta2", "epsilon"))
    parameter, first, second = START.astype(np.float64), np.zeros(START.shape), np.zeros(START.shape)
    for t, grad in enumerate(GRADS.astype(np.float64), start=1):
        first, second = beta1 * first + (1 - beta1) * grad, beta2 * second + (1 - beta2) * grad**2
        rate = 0.01 * np.sqrt(1 - beta2**t) / (1 - beta1**t)
        parameter -= rate * first / (np.sqrt(second) + epsilon)
    state, _ = run(options("AdamTF"), GRADS)
    np.testing.assert_allclose(state["params"], parameter, rtol=1e-5, atol=2e-6)
    assert torch_optimizers.adam_tf.__name__ == jax_optimizers.adam_tf.__name__ == "adam_tf"


@pytest.mark.parametrize("rule", ["Adamax", "Adam", "AdamTF", "RAdam"])
def test_twins_agree_with_clipping_decay_and_skips(rule):
    grads = GRADS.copy()
    grads[3, 5] = np.nan
    grads[4] *= 1e4
    grads[7, 0] = np.inf
    arguments = (options(rule, clip_gradient_norm=True, gradient_skip_threshold=100.0), grads)
    torch_state, torch_norms = run_torch(*arguments, decay=0.1, n_decayed=300)
    jax_state, jax_norms = run_jax(*arguments, decay=0.1, n_decayed=300)
    np.testing.assert_allclose(torch_norms, jax_norms, rtol=1e-5)
    for name in ("params", "first", "second", "ema"):
        np.testing.assert_allclose(torch_state[name], jax_state[name], rtol=1e-5, atol=1e-6, err_msg=name)
    counters = {name: int(torch_state[name]) for name in ("updates", "skips", "skips_in_row", "longest_row")}
    assert counters == {"updates": 9, "skips": 3, "skips_in_row": 0, "longest_row": 2}
    assert counters == {name: int(jax_state[name]) for name in counters}


@pytest.mark.parametrize("run", [run_torch, run_jax])
@pytest.mark.parametrize("spoil", [np.nan, np.inf, 200.0])
@pytest.mark.parametrize("first", [True, False])
def test_skipped_step_changes_nothing_but_the_counters(run, spoil, first):
    good, bad = GRADS[:0] if first else GRADS[:2], GRADS[2:3].copy()
    bad[0, 0] = spoil
    optimizer = options("Adamax", gradient_skip_threshold=100.0)
    before, _ = run(optimizer, good)
    after, _ = run(optimizer, [*good, *bad])
    for name in ("params", "first", "second", "ema", "updates"):
        np.testing.assert_array_equal(before[name], after[name])
    assert int(after["skips"]) == int(after["skips_in_row"]) == 1


@pytest.mark.parametrize("run", [run_torch, run_jax])
def test_without_gradient_skip_only_gradients_that_are_not_finite_are_skipped(run):
    grads = GRADS[:3].copy()
    grads[1] *= 1e4
    grads[2, 0] = np.nan
    state, _ = run(options("Adamax", gradient_skip=False, gradient_skip_threshold=1.0), grads)
    assert (int(state["updates"]), int(state["skips"])) == (2, 1)


@pytest.mark.parametrize("run", [run_torch, run_jax])
def test_clipping_scales_to_the_norm_and_reports_it_before(run):
    clipped, norms = run(options("Adam", clip_gradient_norm=True, gradient_clip_norm_value=0.5), GRADS[:1])
    np.testing.assert_allclose(norms[0], np.linalg.norm(GRADS[0]), rtol=1e-5)
    np.testing.assert_allclose(clipped["first"], 0.1 * GRADS[0] * 0.5 / norms[0], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("run", [run_torch, run_jax])
def test_weight_decay_is_decoupled_and_masked_and_average_follows(run):
    lr, decay, n_decayed = 0.01, 0.1, 300
    plain, _ = run(options("Adamax"), GRADS[:1])
    decayed, _ = run(options("Adamax"), GRADS[:1], lr=lr, decay=decay, n_decayed=n_decayed)
    expected = plain["params"].copy()
    expected[:n_decayed] -= lr * decay * START[:n_decayed]
    np.testing.assert_allclose(decayed["params"], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decayed["ema"], 0.9 * START + 0.1 * decayed["params"], rtol=1e-6, atol=1e-7)
