"""The table of parameters and their initial values."""

import numpy as np
import pytest

from dioscuri.families.hierarchical_vae.initialisation import decayed, initial_parameters, parameter_table
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.importers.efficient_vdvae_names import key_table
from tests.support.engines import tiny


@pytest.fixture(scope="module")
def plan():
    return make_plan(tiny())


def test_names_are_those_of_the_checkpoints(plan):
    assert set(parameter_table(plan)) == {key.name for key in key_table(plan)}


def test_values_follow_the_rules(plan):
    first = initial_parameters(tiny(), plan, 0)
    for name, parameter in parameter_table(plan).items():
        array = first[name]
        assert array.shape == parameter.shape
        assert array.dtype == np.float32
        if not name.endswith(".weight"):
            assert not array.any(), name
            continue
        outputs, inputs, *kernel = parameter.shape
        limit = np.sqrt(6 / ((inputs + outputs) * np.prod(kernel)))
        last_of_cell = ".cells." in name and name.endswith("convs.2.weight")
        if last_of_cell or "z_projection" in name:
            limit /= np.sqrt(len(plan.down))
        assert np.abs(array).max() <= limit, name
        assert np.abs(array).max() > 0.5 * limit, name


def test_options_change_what_they_name(plan):
    plain = initial_parameters(tiny("model.stable_init=False"), plan, 0)
    stable = initial_parameters(tiny("model.stable_init=True"), plan, 0)
    changed = {name for name in plain if not np.array_equal(plain[name], stable[name])}
    assert changed == {name for name in plain if ".cells." in name and name.endswith("convs.2.weight")}
    zero = initial_parameters(tiny("model.initialize_prior_weights_as_zero=True"), plan, 0)
    assert {
        name for name in zero if "prior_net" in name and name.endswith("weight") and not zero[name].any()
    } == {f"top_down.blocks.{group}.prior_net.convs.2.weight" for group in range(len(plan.down))}


def test_seed_and_name_decide(plan):
    first, again, other = (initial_parameters(tiny(), plan, seed) for seed in (0, 0, 1))
    for name, array in first.items():
        np.testing.assert_array_equal(array, again[name])
        assert not array.any() or not np.array_equal(array, other[name])
    weights = [array.ravel()[:4].tolist() for name, array in first.items() if name.endswith("weight")]
    assert len({tuple(values) for values in weights}) == len(weights)


def test_kernels_of_cells_nets_pools_and_unpools_decay(plan):
    actual = {name for name in parameter_table(plan) if decayed(name)}
    assert all(name.endswith(".weight") for name in actual)
    for part in ("cells.0.convs.1", "prior_net.convs.0", "posterior_net.convs.2", "pool", "unpool.conv"):
        assert any(name.endswith(f"{part}.weight") for name in actual), part
    for part in (
        "input_conv",
        "output_conv",
        "skip_projection",
        "z_projection",
        "prior_layer",
        "posterior_layer",
    ):
        assert not any(f"{part}." in name for name in actual), part
