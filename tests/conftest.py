"""Settings of every test session, which must precede the first import of a framework."""

import gc
import os
import shutil
import socket
import sys
import tempfile
from contextlib import contextmanager

import hypothesis
import pytest

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Almost every program runs once and is small: without optimisation, it compiles in a third of the time.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=2",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    )
)
# Many tests, and programs that they start, compile the same JAX programs: each is compiled once per worker. A
# folder of several workers could give one of them a program that another has half written.
PROGRAMS = tempfile.mkdtemp(prefix="dioscuri-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = PROGRAMS
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "disabled")

# JAX's traces are many objects without cycles: searching for cycles took 8 % of a test's time.
gc.set_threshold(100_000, 20, 20)

# A loaded machine is no defect, and a test that has passed passes again: its examples stay the same.
hypothesis.settings.register_profile(
    "project", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("project")


def _is_local(address: object) -> bool:
    return not isinstance(address, tuple) or address[0] in (
        "localhost",
        "127.0.0.1",
        "::1",
        socket.gethostname(),
    )


@pytest.fixture(autouse=True, scope="session")
def _no_network():
    """A test that contacts another machine fails instead of hanging or passing by luck."""
    connect = socket.socket.connect

    def guarded(self, address):
        if not _is_local(address):
            raise RuntimeError(f"a test tried to reach {address!r}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(autouse=True, scope="module")
def _quick_engines():
    """Engines, too, compile without optimisation: a third of the time, and equal numbers to rounding."""
    with pytest.MonkeyPatch.context() as patch:
        _compile_quickly(patch)
        yield patch


@pytest.fixture(scope="module")
def users_compiler(_quick_engines):
    """A context in which engines compile as users' programs do, for the curves of training."""

    @contextmanager
    def compiler():
        _quick_engines.undo()
        try:
            yield
        finally:
            _compile_quickly(_quick_engines)

    return compiler


def _compile_quickly(patch):
    if "jax_impl.devices" in sys.modules:
        patch.setattr(sys.modules["jax_impl.devices"].Devices, "compiler_options", None)


def pytest_unconfigure():
    """Remove the compiled programs."""
    shutil.rmtree(PROGRAMS, ignore_errors=True)
