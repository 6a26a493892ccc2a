"""Settings of every test session, which must precede the first import of a framework."""

import gc
import os
import socket

import hypothesis
import pytest

os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2".strip()
)
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "disabled")

# JAX's traces are many objects without cycles: searching for cycles took 8 % of a test's time.
gc.set_threshold(100_000, 20, 20)

# A loaded machine is no defect.
hypothesis.settings.register_profile("project", deadline=None)
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
