"""The PyTorch engine."""

import weakref
from dataclasses import dataclass
from operator import attrgetter

import pytest
import torch
from torch._functorch import config as functorch_config
from torch._functorch._aot_autograd.autograd_cache import should_use_local_autograd_cache

from tests.parity.engine_behaviour import EngineBehaviour
from tests.parity.test_maskgit_training import train
from tests.support import tiny_sundae
from tests.support.engines import make_engine


class TestTorchEngine(EngineBehaviour):
    twin = "torch"


def test_parameters_are_channels_last_views_of_one_vector():
    engine = make_engine("torch")
    low, high = (
        engine.state.optimizer.params.data_ptr(),
        engine.state.optimizer.params.data_ptr() + 4 * engine.layout.size,
    )
    for name, parameter in engine.models[False].named_parameters():
        assert low <= parameter.data_ptr() < high, name
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name


@pytest.mark.parametrize("compiled", [False, True])
def test_a_compiled_run_keeps_off_the_cache_whose_writing_crashes(monkeypatch, compiled):
    monkeypatch.delenv("TORCHINDUCTOR_AUTOGRAD_CACHE", raising=False)
    with functorch_config.patch(enable_autograd_cache=True):
        assert make_engine("torch", f"train.compile={compiled}").compiles == compiled
        assert should_use_local_autograd_cache() != compiled


@dataclass(eq=False)
class Holder:
    tensor: torch.Tensor


class Kept:
    """Bytes that autograd stores for the backward pass: `now`, and the maximum."""

    def __init__(self):
        self.now = self.most = 0

    def pack(self, tensor):
        holder = Holder(tensor)
        weakref.finalize(holder, self.release, tensor.nbytes)
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        return holder

    def release(self, size):
        self.now -= size


def test_unrolled_passes_do_not_add_up_in_memory():
    peaks = []
    for passes in (1, 4):
        engine, kept = tiny_sundae.make_engine("torch", f"loss.unroll_steps={passes}"), Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, attrgetter("tensor")):
            train(engine, range(1))
        assert kept.now == 0
        peaks.append(kept.most)
    assert peaks[1] <= 1.1 * peaks[0]
