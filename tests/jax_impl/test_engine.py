"""The JAX engine."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dioscuri.errors import UserError
from jax_impl import engine as engine_module
from jax_impl.devices import Devices, use_compilation_cache
from jax_impl.inference import MOST_PROGRAMS
from tests.parity.engine_behaviour import EngineBehaviour
from tests.parity.test_maskgit_training import batch_of
from tests.support import tiny_sundae
from tests.support.engines import assert_states_close, make_engine, pictures, posterior_noise, scalars, train
from tests.support.sharding import trained


class TestJaxEngine(EngineBehaviour):
    twin = "jax"


@pytest.fixture
def single(monkeypatch):
    """Give engines only the first device."""
    mesh = Mesh(np.array(jax.devices("cpu")[:1]), ("data",))
    monkeypatch.setattr(engine_module, "open_devices", lambda *_: Devices(mesh, 0, 1))


def test_the_number_of_cpu_devices_is_an_option():
    assert make_engine("jax").device_count == 2  # as the tests' JAX is started
    assert make_engine("jax", "run.num_cpu_devices=1").device_count == 1
    with pytest.raises(UserError, match="num_cpu_devices is 3, but this process started with 2"):
        make_engine("jax", "run.num_cpu_devices=3")


def test_programs_are_cached_in_the_projects_folder_or_where_the_user_says(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size
    monkeypatch.setenv("DIOSCURI_CACHE", str(tmp_path))
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == before[0] == os.environ["JAX_COMPILATION_CACHE_DIR"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    use_compilation_cache()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "jax")
    jax.config.update("jax_compilation_cache_dir", before[0])
    jax.config.update("jax_compilation_cache_max_size", before[1])


def test_a_process_keeps_the_latest_programs():
    """Someone who tries hundreds of temperatures must not fill the memory."""
    runner = make_engine("jax").runner
    for temperature in range(MOST_PROGRAMS + 2):
        assert runner.jit(lambda x, by=temperature: x * by, temperature)(2) == 2 * temperature
    assert list(runner.compiled) == list(range(2, MOST_PROGRAMS + 2))
    latest = runner.compiled[2]
    assert runner.jit(None, 2) is latest


def test_a_new_process_splits_its_cpu_and_trains_as_one_device_does():
    """With one copy of the state on four devices, and with two copies, each on two."""
    program = (
        "from tests.support.sharding import trained\n"
        "for per_copy in (0, 2):\n"
        "    words = 'run.num_cpu_devices=4', 'train.shard=parameters', f'train.shard_devices={per_copy}'\n"
        "    engine, losses = trained('jax', 'classifier', *words)\n"
        "    vector = engine.state.optimizer.first\n"
        "    print(len(vector.addressable_shards), vector.addressable_shards[0].data.shape[0],\n"
        "          len({str(shard.index) for shard in vector.addressable_shards}), *losses)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
    expected = trained("torch", "classifier")[1]
    for line, n_shares in zip(done.stdout.splitlines(), (4, 2), strict=True):
        count, rows, distinct, *losses = map(float, line.split())
        assert (count, rows, distinct) == (4, 1, n_shares)
        np.testing.assert_allclose(losses, expected, rtol=1e-8)


def test_two_devices_equal_one(single, request):
    alone = make_engine("jax")
    losses = train(alone, (0, 1, 30))
    mean = alone.run("evaluate", {"image": pictures(0)}, ema=True, step=0, noise=posterior_noise(0))
    request.getfixturevalue("monkeypatch").undo()
    both = make_engine("jax")
    assert (alone.device_count, both.device_count) == (1, 2)
    np.testing.assert_allclose(train(both, (0, 1, 30)), losses, rtol=1e-5)
    programs = {both.program({"image": pictures(step)}, scalars(step)) for step in (0, 1, 30)}
    steps = [jitted for key, jitted in both.runner.compiled.items() if key[0] == "step"]
    assert sum(jitted._cache_size() for jitted in steps) == len(programs) == 2
    assert_states_close(alone.state_to_numpy(), both.state_to_numpy(), 1e-4)
    actual = both.run("evaluate", {"image": pictures(0)}, ema=True, step=0, noise=posterior_noise(0))
    np.testing.assert_allclose(actual["kl"], mean["kl"], rtol=1e-3, atol=1e-4)


def test_noise_does_not_depend_on_the_number_of_devices(single, request):
    drawn = [make_engine("jax").runner.noise("train_step", 8, (3, 3))]
    request.getfixturevalue("monkeypatch").undo()
    drawn.append(make_engine("jax").runner.noise("train_step", 8, (3, 3)))
    for name, array in drawn[0].items():
        np.testing.assert_array_equal(np.asarray(array), np.asarray(drawn[1][name]))


def test_the_step_takes_its_state_over():
    engine = make_engine("jax")
    params = engine.state.optimizer.params
    train(engine, range(1))
    assert params.is_deleted()


def test_unrolled_passes_do_not_add_up_in_memory(monkeypatch):
    peaks, barriers = [], []
    for passes in (1, 2):
        engine = tiny_sundae.make_engine("jax", f"loss.unroll_steps={passes}")
        make = engine.runner.jit

        def measured(function, key, *, make=make, **options):
            compiled = make(function, key, **options)

            def call(*arguments):
                if key[0] != "step":
                    return compiled(*arguments)
                lowered = compiled.lower(*arguments)
                barriers.append(lowered.as_text().count("optimization_barrier"))
                program = lowered.compile()
                peaks.append(program.memory_analysis().temp_size_in_bytes)
                return program(*arguments)

            return call

        monkeypatch.setattr(engine.runner, "jit", measured)
        engine.train_step(batch_of(0, 256), 0, {"learning_rate": 0.0, "ema_decay": 0.0})
    assert 0 < peaks[1] <= 1.2 * peaks[0], peaks
    # On a CPU, XLA itself orders the passes so; elsewhere, a barrier after each pass does.
    assert barriers[1] - barriers[0] == 1
