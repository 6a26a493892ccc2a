"""Parameters and optimiser state spread over two processes (gloo) train as a single process does."""

import numpy as np
import pytest

from tests.support.engines import assert_states_close
from tests.support.sharding import CASES, trained
from tests.torch_impl.test_distributed import nested, start_two

MODES = ("optimizer", "parameters")
WORKER = """
import sys
import numpy as np
from tests.support.engines import assert_states_equal
from tests.support.sharding import CASES, trained
for family in CASES:
    for mode in ("optimizer", "parameters"):
        engine, losses = trained("torch", family, f"train.shard={mode}")
        held = [engine.layout.size, engine.memory()["optimizer"]]
        whole = engine.state_to_numpy()
        engine.state_from_numpy(whole)
        assert_states_equal(whole, engine.state_to_numpy())
        state = engine.state_to_numpy(everywhere=False)
        flat = {f"{group}/{name}": array for group, arrays in state.items() for name, array in arrays.items()}
        np.savez(f"{sys.argv[1]}/{family}-{mode}-{engine.process_index}.npz", loss=losses, held=held, **flat)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made of every family."""
    folder = tmp_path_factory.mktemp("shared")
    start_two(folder, WORKER)
    return folder


@pytest.mark.parametrize("family", CASES)
def test_every_family_trains_as_one_process_does(folder, family):
    alone, losses = trained("torch", family)
    for mode in MODES:
        ranks = [dict(np.load(folder / f"{family}-{mode}-{rank}.npz")) for rank in range(2)]
        for rank in ranks:
            np.testing.assert_allclose(rank["loss"], losses, rtol=1e-9)
        assert_states_close(alone.state_to_numpy(), nested(ranks[0]), 1e-8)
        assert not any(nested(ranks[1]).values())  # the process that writes no file holds none of it
        sizes, moments = np.array([rank["held"] for rank in ranks]).T
        assert sizes.sum() == alone.layout.size
        assert (moments == 2 * 8 * sizes).all()
