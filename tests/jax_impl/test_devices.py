"""The memory of a process that trains on a CPU."""

import jax
import jax.numpy as jnp

from jax_impl import devices


def test_freed_memory_goes_back_once_when_a_program_is_compiled(monkeypatch):
    devices.open_devices(0)
    devices.open_devices(0)  # a second engine in the process
    given = []
    monkeypatch.setattr(devices, "give_back_freed_memory", lambda: given.append(1))
    monkeypatch.setattr(devices, "_LEAST_SECONDS", 0.0)
    step, x = jax.jit(lambda x: jnp.sin(x) + 1.25), jnp.ones(3)
    given.clear()
    step(x)
    assert given == [1]
    step(x)
    assert given == [1]


def test_programs_that_compile_fast_leave_freed_memory(monkeypatch):
    devices.open_devices(0)
    given, x = [], jnp.ones(3)
    monkeypatch.setattr(devices, "give_back_freed_memory", lambda: given.append(1))
    monkeypatch.setattr(devices, "_LEAST_SECONDS", 1e9)
    jax.jit(lambda x: jnp.cos(x) + 1.25)(x)
    assert not given
