"""Parameters and optimiser state spread over two devices train as the other twin does on one."""

import numpy as np
import pytest

from tests.support.engines import assert_states_close, assert_states_equal
from tests.support.sharding import CASES, trained


@pytest.mark.parametrize(
    ("family", "mode"), [*((family, "parameters") for family in CASES), ("classifier", "optimizer")]
)
def test_every_family_trains_as_on_one_device(family, mode):
    engine, losses = trained("jax", family, f"train.shard={mode}")
    alone, expected = trained("torch", family)
    assert engine.device_count == 2
    for vector in (engine.state.optimizer.params, engine.state.optimizer.first):
        assert {shard.data.nbytes for shard in vector.addressable_shards} == {vector.nbytes // 2}
    np.testing.assert_allclose(losses, expected, rtol=1e-8)
    state = alone.state_to_numpy()
    assert_states_close(state, engine.state_to_numpy(), 1e-7)
    engine.state_from_numpy(state)
    assert_states_equal(state, engine.state_to_numpy())
    assert engine.memory()["weights"] == engine.layout.size * 8
