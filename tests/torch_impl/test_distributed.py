"""Two processes under torchrun (gloo) compute the same as one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny_sundae, tiny_vqgan
from tests.support.engines import (
    BATCH,
    assert_states_close,
    make_engine,
    pictures,
    posterior_noise,
    scalars,
    train,
)
from torch_impl.engine import Engine

ROOT = Path(__file__).parents[2]
STEPS = (0, 1, 30)

WORKER = """
import sys
import numpy as np
from tests.support.engines import make_engine, pictures, posterior_noise, scalars
engine = make_engine("torch", *sys.argv[2:])
share = engine.devices.share
for step in (0, 1, 30):
    noise = {name: share(array) for name, array in posterior_noise(step).items()}
    engine.train_step({"image": share(pictures(step))}, step, scalars(step), noise)
metrics = engine.fetch_metrics()
results = engine.run("evaluate", {"image": pictures(0)[:5]}, ema=True, step=0,
                   noise={name: array[:5] for name, array in posterior_noise(0).items()})
drawn = engine.runner.noise("train_step", 4, (0, 0))["posterior.0"].numpy()
state = engine.state_to_numpy()
flat = {f"{group}/{name}": array for group, tensors in state.items() for name, array in tensors.items()}
path = f"{sys.argv[1]}/{engine.process_index}.npz"
np.savez(path, loss=metrics["loss"], kl=results["kl"], drawn=drawn, **flat)
"""


def start_processes(folder, program, *words, count=2):
    """Run a program in several processes."""
    script = folder / "worker.py"
    script.write_text(program)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(count), "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*command, str(script), str(folder), *words]
    subprocess.run(words, check=True, env=environment, timeout=900, cwd=ROOT)


def test_two_processes_average_bfloat16_gradients_without_losing_digits(tmp_path):
    """The gradients of a process are rounded to bfloat16, their mean is not."""
    words = ("train.precision=bfloat16", "train.accumulation_steps=2")
    start_processes(tmp_path, WORKER, *words)
    moments = [nested(dict(np.load(tmp_path / f"{rank}.npz")))["optimizer"] for rank in range(2)]
    alone = make_engine("torch", *words)
    train(alone, STEPS)
    first, second, expected = (
        np.concatenate([array.ravel() for name, array in sorted(of_run.items()) if "exp_avg." in name])
        for of_run in (*moments, alone.state_to_numpy()["optimizer"])
    )
    np.testing.assert_array_equal(first, second)
    # A single process rounds the gradients of twice as many rows.
    assert np.linalg.norm(first - expected) <= 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("overrides", [(), ("train.accumulation_steps=2",)], ids=["whole", "accumulated"])
def test_two_processes_equal_one(tmp_path, overrides):
    start_processes(tmp_path, WORKER, *overrides)
    ranks = [dict(np.load(tmp_path / f"{rank}.npz")) for rank in range(2)]
    alone = make_engine("torch")
    losses = train(alone, STEPS)
    kl = alone.run(
        "evaluate",
        {"image": pictures(0)[:5]},
        ema=True,
        step=0,
        noise={n: a[:5] for n, a in posterior_noise(0).items()},
    )["kl"]
    for rank in ranks:
        np.testing.assert_allclose(rank["loss"], losses.mean(), rtol=1e-5)
        np.testing.assert_allclose(rank["kl"], kl, rtol=1e-3, atol=1e-4)
        assert_states_close(alone.state_to_numpy(), nested(rank), 1e-4)
    np.testing.assert_array_equal(
        ranks[0]["model/top_down.trainable_h"], ranks[1]["model/top_down.trainable_h"]
    )
    assert (ranks[0]["drawn"] != ranks[1]["drawn"]).all()
    assert scalars(0)["gamma"] == 1  # the balance needs the mean over both processes


def nested(flat):
    state = {"model": {}, "ema": {}, "optimizer": {}}
    for key, array in flat.items():
        group, _, name = key.partition("/")
        if group in state:
            state[group][name] = array
    return state


OTHERS = """
import sys
import numpy as np
from tests.torch_impl.test_distributed import trained
engine, losses = trained(sys.argv[2], len(sys.argv) > 3)
state = engine.state_to_numpy()
flat = {f"{group}/{name}": array for group, tensors in state.items() for name, array in tensors.items()}
np.savez(f"{sys.argv[1]}/{engine.process_index}.npz", loss=losses, **flat)
"""
# Without batch norm and adaptive weight, which each process computes from its own rows.
ALTERNATING = ("loss.alternating=True", "discriminator.norm=instance", "loss.adaptive_disc_weight=False")
CHOSEN = {
    "vqgan": (tiny_vqgan, ALTERNATING),
    "sundae": (tiny_sundae, ("loss.unroll_steps=3",)),
}


def trained(family, share):
    """An engine of another family after three steps in float64, and their losses."""
    module, words = CHOSEN[family]
    engine = Engine(module.tiny("train.precision=float64", *words))
    engine.initialise()
    own = engine.devices.share if share else lambda array: array
    losses = []
    for step in range(3):
        specs, rng = engine.family.noise_specs("train_step", BATCH), np.random.default_rng((2, step))
        noise = {spec.name: own(rng.uniform(spec.low, spec.high, spec.shape)) for spec in specs}
        tokens = {"tokens": rng.integers(0, 16, (BATCH, 16)), "label": rng.integers(0, 10, BATCH)}
        batch = {"image": pictures(step)} if family == "vqgan" else tokens
        values = {"learning_rate": 0.002, "adversarial": step > 0, "gumbel_temperature": 1.0}
        engine.train_step({name: own(array) for name, array in batch.items()}, step, values, noise)
        losses.append(engine.fetch_metrics()["loss"])
    return engine, np.array(losses)


@pytest.mark.parametrize("family", ["vqgan", "sundae"])
def test_two_processes_equal_one_in_steps_of_their_own(tmp_path, family):
    """With alternating updates, and with unrolled passes."""
    start_processes(tmp_path, OTHERS, family, "share")
    alone, losses = trained(family, share=False)
    for rank in range(2):
        both = dict(np.load(tmp_path / f"{rank}.npz"))
        np.testing.assert_allclose(both["loss"], losses, rtol=1e-9)
        state = nested(both)
        assert_states_close(alone.state_to_numpy(), state, 1e-9)
