"""Two processes under torchrun (gloo) are one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.engines import assert_states_close, make_engine, pictures, posterior_noise, scalars, train

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
found = engine.run("evaluate", {"image": pictures(0)[:5]}, ema=True, step=0,
                   noise={name: array[:5] for name, array in posterior_noise(0).items()})
drawn = engine.runner.noise("train_step", 4, (0, 0))["posterior.0"].numpy()
state = engine.state_to_numpy()
flat = {f"{group}/{name}": array for group, tensors in state.items() for name, array in tensors.items()}
path = f"{sys.argv[1]}/{engine.process_index}.npz"
np.savez(path, loss=metrics["loss"], kl=found["kl"], drawn=drawn, **flat)
"""


@pytest.mark.parametrize("overrides", [(), ("train.accumulation_steps=2",)], ids=["whole", "accumulated"])
def test_two_processes_equal_one(tmp_path, overrides):
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--standalone",
        str(script),
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(tmp_path), *overrides], check=True, env=environment, timeout=300, cwd=ROOT)
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
