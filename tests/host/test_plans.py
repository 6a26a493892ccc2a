"""The hierarchical VAE's layer plan is consistent for every accepted configuration."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.logic import check_options
from dioscuri.families.hierarchical_vae.plan import Cell, make_plan
from dioscuri.families.latent_models.plan import level_temperatures, mixture_channels
from dioscuri.hparams import load
from dioscuri.plans.noise import NoiseSpec
from tests.golden.host_cases import ANY_CFG

BASE = load(ANY_CFG)


def with_options(**changes):
    """The options of a recorded case with some changed, as section__option=value."""
    options = BASE
    for name, value in changes.items():
        section, option = name.split("__")
        options = replace(options, **{section: replace(getattr(options, section), **{option: value})})
    return options


def small(**changes):
    """Three levels of 8, 4 and 2 pixels."""
    lists = {
        "strides": (2, 2, 1), "n_blocks_per_res": (1, 0, 2), "n_blocks": (1, 2, 1), "n_layers": (1, 0, 2),
        "filters": (6, 8, 8), "mid_filters_ratio": (0.5, 1.0, 0.5), "kernel_size": (3, 3, 1),
    }  # fmt: skip
    up = {f"model__up_{name}": value for name, value in lists.items()}
    down = {f"model__down_{name}": value[::-1] for name, value in lists.items()}
    return with_options(**{
        **up, **down, "model__input_conv_filters": 4, "model__down_filters": (8, 6, 4), "data__target_res": 8,
        "model__up_skip_filters": (4, 6, 8), "model__down_latent_variates": (5, 4, 3),
        "data__dataset_source": "custom", "data__channels": 3, **changes,
    })  # fmt: skip


@st.composite
def configurations(draw):
    """Consistent options with one to four levels."""
    n = draw(st.integers(1, 4))

    def per_level(values):
        return tuple(draw(st.lists(values, min_size=n, max_size=n)))

    strides = per_level(st.sampled_from([1, 2, 3]))
    width = draw(st.integers(2, 9))
    widths = [width]
    for stride in strides:
        widths.append(draw(st.integers(2, 9)) if stride > 1 else widths[-1])
    skips = [draw(st.integers(2, 9)) for _ in range(n)]
    for level in reversed(range(n - 1)):
        # On the way down, a level of stride 1 keeps the width of the one before it.
        skips[level] = skips[level + 1] if strides[level] == 1 else skips[level]
    ratios = st.sampled_from([0.5, 1.0, 1.7])
    source = draw(st.sampled_from(["custom", "binarized_mnist"]))
    channels = draw(st.integers(1, 4))
    return with_options(
        model__input_conv_filters=width,
        model__up_strides=strides,
        model__up_n_blocks_per_res=per_level(st.integers(0, 2)),
        model__up_n_blocks=per_level(st.integers(1, 2)),
        model__up_n_layers=per_level(st.integers(0, 2)),
        model__up_filters=tuple(widths[1:]),
        model__up_mid_filters_ratio=per_level(ratios),
        model__up_kernel_size=per_level(st.integers(1, 4)),
        model__up_skip_filters=tuple(skips),
        model__down_strides=strides[::-1],
        model__down_n_blocks_per_res=per_level(st.integers(0, 2)),
        model__down_n_blocks=per_level(st.integers(0, 2)),
        model__down_n_layers=per_level(st.integers(0, 2)),
        model__down_filters=tuple(skips[::-1]),
        model__down_mid_filters_ratio=per_level(ratios),
        model__down_kernel_size=per_level(st.integers(1, 4)),
        model__down_latent_variates=per_level(st.integers(1, 5)),
        model__use_1x1_conv=draw(st.booleans()),
        model__num_output_mixtures=draw(st.integers(1, 5)),
        data__target_res=prod(strides) * draw(st.integers(1, 2)) * 6,
        data__dataset_source=source,
        data__channels=channels,
    )


@given(configurations())
def test_the_bottom_up_path_fits_together(options):
    plan, model = make_plan(options), options.model
    assert len(plan.up) == len(model.up_strides) + sum(model.up_n_blocks_per_res)
    assert (plan.up[0].channels, plan.up[0].resolution) == (plan.input_channels, plan.resolution)
    for block, following in pairwise(plan.up):
        last = following.level > block.level
        assert following.channels == (block.pool_channels if block.pool_stride > 1 else block.channels)
        assert following.resolution * block.pool_stride == block.resolution
        assert (block.skip_channels > 0) == last
        assert block.pool_stride == (model.up_strides[block.level] if last else 1)
    assert plan.up[-1].skip_channels == model.up_skip_filters[-1]
    for block in plan.up:
        assert len(block.cells) == model.up_n_blocks[block.level]
        assert all(cell.residual and cell.in_channels == block.channels for cell in block.cells)


@given(configurations())
def test_the_top_down_path_fits_together(options):
    plan, model = make_plan(options), options.model
    assert len(plan.down) == len(model.down_strides) + sum(model.down_n_blocks_per_res)
    assert plan.residual_scale == pytest.approx(len(plan.down) ** -0.5)
    skips = {block.level: block for block in plan.up if block.skip_channels}
    side, channels = plan.top_resolution, plan.top_channels
    for block in plan.down:
        side *= block.unpool_stride
        assert (block.resolution, block.in_channels) == (side, channels)
        assert block.unpool_stride == (model.down_strides[block.level] if block.index == 0 else 1)
        skip = skips[block.skip_level]
        assert (skip.resolution, skip.skip_channels) == (block.resolution, block.channels)
        assert (block.prior_net.in_channels, block.prior_net.out_channels) == (
            block.channels,
            2 * block.channels,
        )
        assert block.posterior_net.in_channels == 2 * block.channels
        assert block.posterior_net.out_channels == block.channels
        assert not block.prior_net.residual
        assert not block.posterior_net.residual
        assert all(cell.residual for cell in block.cells)
        channels = block.channels
    assert side == plan.resolution == options.data.target_res


@given(configurations())
def test_every_cell_is_a_chain_of_convolutions(options):
    plan = make_plan(options)
    cells = [cell for block in (*plan.up, *plan.down) for cell in block.cells]
    cells += [net for block in plan.down for net in (block.prior_net, block.posterior_net)]
    for cell in cells:
        convolutions = cell.convolutions
        assert len(convolutions) == cell.n_layers + 2
        assert all(first[1] == second[0] for first, second in pairwise(convolutions))
        assert (convolutions[0][0], convolutions[-1][1]) == (cell.in_channels, cell.out_channels)
        assert cell.edge_kernel_size == ((1, 1) if options.model.use_1x1_conv else cell.kernel_size)


@given(configurations(), st.integers(1, 3))
def test_noise_covers_every_group_in_order(options, batch):
    plan = make_plan(options)
    both = plan.latent_noise(batch, prior=True, posterior=True)
    assert [draw.name for draw in both[:2]] == ["prior.0", "posterior.0"]
    assert len(both) == 2 * len(plan.down)
    assert all(draw.shape == plan.latent_shape(int(draw.name.split(".")[1]), batch) for draw in both)
    only = plan.latent_noise(batch, prior=False, posterior=True)
    assert only == both[1::2]
    assert sum(prod(draw.shape) for draw in only) == batch * sum(map(plan.latent_dims, range(len(plan.down))))


@given(configurations())
def test_the_output_layer_is_what_the_likelihood_needs(options):
    plan = make_plan(options)
    names = [draw.name for draw in plan.output_noise(2)]
    if options.data.dataset_source == "binarized_mnist":
        assert (plan.likelihood, plan.output_channels, plan.crop) == ("bernoulli", options.data.channels, 2)
        assert names == ["pixel"]
    else:
        assert plan.output_channels == mixture_channels(plan.n_mixtures, plan.channels)
        assert (plan.crop, names) == (0, ["mixture", "logistic"])
    assert plan.image_dims == (plan.resolution - 2 * plan.crop) ** 2 * plan.channels


def test_an_example_by_hand():
    plan = make_plan(small())
    assert Counter(block.resolution for block in plan.down) == {2: 3, 4: 1, 8: 2}
    assert [block.channels for block in plan.down] == [8, 8, 8, 6, 4, 4]
    assert [block.variates for block in plan.down] == [5, 5, 5, 4, 3, 3]
    assert [block.skip_level for block in plan.down] == [2, 2, 2, 1, 0, 0]
    assert [block.pool_stride for block in plan.up] == [1, 2, 2, 1, 1, 1]
    assert plan.up[0].cells == (
        Cell(in_channels=4, mid_channels=2, out_channels=4, n_layers=1, kernel_size=(3, 3),
             edge_kernel_size=(1, 1), residual=True),
    )  # fmt: skip
    assert plan.down[3].posterior_net.mid_channels == 6
    assert (plan.output_channels, plan.image_shape) == (10 * plan.n_mixtures, (8, 8, 3))
    assert plan.latent_noise(2, prior=True, posterior=False)[5] == NoiseSpec(
        "prior.5", "normal", (2, 8, 8, 3)
    )


@pytest.mark.parametrize(("channels", "expected"), [(1, 3 * 5), (2, 5 * 5), (3, 10 * 5), (4, 9 * 5)])
def test_only_rgb_has_coupling_coefficients(channels, expected):
    assert mixture_channels(5, channels) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model__up_strides": ()}, "[model] up_strides is empty: give one entry per level"),
        ({"model__up_filters": (6, 8)}, "[model] up_filters has 2 entries but up_strides has 3"),
        ({"model__down_filters": (8, 6)}, "[model] down_filters has 2 entries but down_strides has 3"),
        ({"model__down_latent_variates": (1,) * 4}, "[model] down_latent_variates has 4 entries"),
        ({"model__down_strides": (2, 2, 1)}, "[model] down_strides [2, 2, 1] must be up_strides reversed"),
        ({"data__target_res": 10}, "[data] target_res 10 is not divisible by the product of"),
        ({"model__up_filters": (6, 8, 9)}, "[model] up_filters[2] is 9 but must be 8"),
        ({"model__up_skip_filters": (4, 5, 8)}, "[model] up_skip_filters[1] is 5 but must equal"),
        ({"model__up_mid_filters_ratio": (0.1,) * 3}, "[model] up_mid_filters_ratio[0] leaves no"),
        ({"model__down_mid_filters_ratio": (0.0,) * 3}, "[model] down_mid_filters_ratio[0] leaves no"),
        ({"data__dataset_source": "costum"}, "[data] dataset_source 'costum' is unknown (did you"),
    ],
)  # fmt: skip
def test_what_does_not_fit_gets_one_line(changes, expected):
    with pytest.raises(UserError) as caught:
        make_plan(small(**changes))
    assert str(caught.value).startswith(expected)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"synthesis__temperature_settings": (("lin", 1.0, 2.0),)}, "[synthesis] temperature_settings: ('l"),
        ({"synthesis__temperature_settings": ((),)}, "[synthesis] temperature_settings: () must be"),
        ({"model__up_n_blocks": (1, 10**12, 1)}, "[model] has "),
        ({"model__up_kernel_size": (10**7,) * 3}, "[model] has "),
    ],
)  # fmt: skip
def test_options_of_a_run_are_checked_before_it_begins(changes, expected):
    check_options(small(synthesis__temperature_settings=(1.0, (0.5, 0.6, 0.7))))
    with pytest.raises(UserError) as caught:
        check_options(small(**{"synthesis__temperature_settings": (1.0,), **changes}))
    assert str(caught.value).startswith(expected)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("prefix", ["", "output_"])
def test_a_softplus_needs_a_beta(prefix):
    base = {f"model__{prefix}distribution_base": "std", f"model__{prefix}gradient_smoothing_beta": 0.0}
    with pytest.raises(UserError, match=rf"^\[model\] {prefix}gradient_smoothing_beta must be above 0"):
        small(**base)


def test_a_level_of_stride_one_keeps_its_width_on_the_way_down():
    options = small(
        model__up_strides=(2, 1, 2), model__up_filters=(6, 6, 8), model__down_strides=(2, 1, 2),
        model__down_filters=(8, 6, 4), data__target_res=8,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"^\[model\] down_filters\[1\] is 6 but must be 8"):
        make_plan(options)


class TestTemperatures:
    def test_a_number_holds_for_every_group(self):
        plan = make_plan(small())
        assert level_temperatures(plan, 0.7) == (0.7,) * 6
        assert level_temperatures(plan, 1) == (1.0,) * 6

    def test_a_list_has_one_a_level(self):
        assert level_temperatures(make_plan(small()), (0.1, 0.2, 0.3)) == (0.1, 0.1, 0.1, 0.2, 0.3, 0.3)

    def test_the_ramp_never_reaches_its_end(self):
        got = level_temperatures(make_plan(small()), ("linear", 0.7, 1.0))
        assert got == pytest.approx((0.7, 0.7, 0.7, 0.8, 0.9, 0.9))

    @pytest.mark.parametrize(
        "setting", [(), (0.1, 0.2), (0.1,) * 4, ("linear", 0.1), ("log", 0.1, 0.2), ("a",) * 3]
    )
    def test_anything_else_gets_one_line(self, setting):
        with pytest.raises(
            UserError, match=r"^\[synthesis\] temperature_settings: .* must be a number, 3 numbers"
        ):
            level_temperatures(make_plan(small()), setting)
