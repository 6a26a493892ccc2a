"""The PyTorch engine."""

import torch

from tests.engines import make_engine
from tests.parity.engine_behaviour import EngineBehaviour


class TestTorchEngine(EngineBehaviour):
    twin = "torch"


def test_parameters_are_channels_last_views_of_one_vector():
    engine = make_engine("torch")
    low, high = engine.state.params.data_ptr(), engine.state.params.data_ptr() + 4 * engine.layout.size
    for name, parameter in engine.models[False].named_parameters():
        assert low <= parameter.data_ptr() < high, name
        if parameter.ndim == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), name
