"""Parameters and optimiser state spread over two processes (gloo) train as a single process does."""

import numpy as np
import pytest

from tests.support.engines import assert_states_close
from tests.support.sharding import CASES, trained
from tests.torch_impl.test_distributed import nested, start_processes

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

COPIES = """
import sys
import numpy as np
from tests.support.sharding import trained
words = "train.shard=parameters", "train.shard_devices=2"
for family in ("vqgan", "sundae"):
    engine, losses = trained("torch", family, *words)
    state = engine.state_to_numpy() | {"of": {"loss": losses, "size": engine.layout.size}}
    flat = {f"{group}/{name}": array for group, arrays in state.items() for name, array in arrays.items()}
    np.savez(f"{sys.argv[1]}/{family}-{engine.process_index}.npz", **flat)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What two processes made of every family."""
    folder = tmp_path_factory.mktemp("shared")
    start_processes(folder, WORKER)
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


def test_two_copies_each_on_two_processes_train_as_one_process_does(tmp_path):
    start_processes(tmp_path, COPIES, count=4)
    for family in ("vqgan", "sundae"):
        alone, losses = trained("torch", family)
        ranks = [dict(np.load(tmp_path / f"{family}-{rank}.npz")) for rank in range(4)]
        for rank in ranks:
            np.testing.assert_allclose(rank["of/loss"], losses, rtol=1e-9)
            assert_states_close(alone.state_to_numpy(), nested(rank), 1e-8)
        sizes = [int(rank["of/size"]) for rank in ranks]
        assert sizes[:2] == sizes[2:]
        assert sum(sizes[:2]) == alone.layout.size
