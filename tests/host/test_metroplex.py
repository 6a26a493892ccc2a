"""Metroplex's block strings, presets, initial values, schedules, JSON files and importers."""

from dataclasses import replace
from json import dumps
from math import cos, pi, sqrt
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dioscuri import schedules
from dioscuri.errors import UserError
from dioscuri.families.latent_models.bounds import unit_of
from dioscuri.families.latent_models.modes.partial import cut_points, group_masks
from dioscuri.families.latent_models.plan import level_temperatures
from dioscuri.families.latent_models.run_logic import LatentGroupsRun
from dioscuri.families.metroplex.block_strings import decoder_blocks, encoder_blocks, widths
from dioscuri.families.metroplex.logic import check_options
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.presets import EQUAL, HALVING
from dioscuri.families.metroplex.sinusoids import sinusoids
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.hparams import load
from dioscuri.importers.convert import convert_configuration
from dioscuri.importers.metroplex_json import cfg_text, options, remarks
from dioscuri.importers.vdvae import from_vdvae
from dioscuri.plans.parameters import initial_values
from tests.parity.metroplex_cases import BASE, SMALL, TRANSFORMER, make

VDVAE = (
    "data.target_res=32",
    "model.width=64",
    "model.bottleneck_multiple=0.25",
    "model.zdim=16",
    "model.num_mixtures=10",
    "model.final_fn=True",
    "model.enc_blocks='32x2,32d2,16x2,16d2,8x1,8d2,4x1,4d4,1x1'",
    "model.dec_blocks='1x1,4m1,4x1,8m4,8x1,16m8,16x2,32m16,32x2'",
)


def chosen(*overrides):
    return load(BASE, [*SMALL, *overrides])


def test_with_patches_of_one_pixel_it_has_the_parameters_of_vdvae():
    hparams = load(BASE, VDVAE)
    table = parameter_table(hparams, make_plan(hparams))
    assert sum(np.prod(entry.shape) for entry in table.values()) == 400_164
    assert make_plan(hparams).patch == (1, 1)


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([2, 4])), min_size=1, max_size=4))
def test_encoder_strings_go_down_and_decoder_strings_up(levels):
    side = 2 ** sum(2 if pool == 4 else 1 for _, pool in levels)
    down, up = [], []
    for n, pool in levels:
        down.append(f"{side}x{n},{side}d{pool}")
        up = [f"{side}m{side // pool}", *up] if up else [f"{side // pool}", f"{side}m{side // pool}"]
        side //= pool
    steps = encoder_blocks(",".join(down))
    assert len(steps) == sum(n + 1 for n, _ in levels)
    assert steps[-1].out_resolution == 1
    assert decoder_blocks("1x2,4m1,4,8m4")[2].mixin == 1
    assert widths("8:12", 5)(8) == 12
    assert widths("8:12", 5)(4) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.target_res=10"], "target_res 10 is not divisible by 4"),
        (["model.exp_scale=4"], "exp_scale 4 does not fit"),
        (["model.enc_blocks='4x1,1x1'"], "'1x1' begins at resolution 1, but the blocks before it end at 4"),
        (["model.enc_blocks='4d3,1x1'"], "'4d3' divides 4 by 3"),
        (["model.enc_blocks='4y1'"], "'4y1' is not a block"),
        (["model.dec_blocks='2x1,4x1'"], "'4x1' skips what comes before it: write '4m2' first"),
        (["model.dec_blocks='2x1,4m1'"], "'4m1' adds resolution 1"),
        (["model.dec_blocks='1x1,2m1,4m2'"], "uses resolution 1, which enc_blocks"),
        (["model.dec_blocks='2x1'"], "ends at resolution 2, enc_blocks begins at 4"),
        (["model.custom_width_str='4:8,2:4'"], "shrinks from 8 at resolution 4 to 4 at 2"),
        (["model.custom_width_str='4:12'"], "has outer_width 8"),
        (["model.custom_width_str='4-8'"], "'4-8' is not RESOLUTION:WIDTH"),
        (["model.bottleneck_multiple=0.01"], "leaves no channel of 8"),
        (["model.attn_res=[4]", "model.attn_heads=3"], "attn_heads 3 does not divide 8"),
        (["model.zdim=0", "model.zdim_factor=9"], "leaves no latent channel of width 8"),
        ([*TRANSFORMER, "model.head_dim=3"], "head_dim 3 does not divide the width 8"),
        ([*TRANSFORMER, "model.enc_blocks='4x2,4d2,2x1'", "model.dec_blocks='2x1,4m2'"], "one resolution"),
        (["model.attn_res=[4,8]"], "attn_res: no block has resolution 8; there are 2, 4"),
        (["model.custom_width_str='4:8,16:8'"], "custom_width_str: no block has resolution 16; there are"),
        ([*TRANSFORMER, "model.attn_res=[4]"], "attn_res is for blocks of convolutions"),
        ([*TRANSFORMER, "model.custom_width_str='4:8'"], "custom_width_str is for blocks of convolutions"),
        (["model.enc_blocks=''", "model.dec_blocks=''", "model.prog_mode=1", "model.depth=12",
          "model.custom_width_str='4:8'"], "prog_mode has its own widths"),
        (["model.abs_enc='start'"], "abs_enc is for transformer blocks"),
        (["model.patch_frames=2"], "patch_frames is for clips"),
        (["model.custom_frames_str='4:2'"], "custom_frames_str is for clips"),
        (["model.norm='layer'"], "norm 'layer' is for transformer blocks"),
        ([*TRANSFORMER, "model.prog_mode=1"], "transformer needs one resolution"),
        ([*TRANSFORMER, "model.width=12", "model.abs_enc='start'", "model.width=6", "model.head_dim=2"],
         "multiple of 4"),
        (["model.enc_blocks=''"], "go together"),
        (["model.enc_blocks=''", "model.dec_blocks=''", "model.prog_mode=1", "model.depth=13"],
         "no preset of depth 13 and start_res 16"),
        (["model.enc_blocks=''", "model.dec_blocks=''", "model.prog_mode=0"], "no preset of width 8"),
        (["model.likelihood='absolute'", "model.num_mixtures=10"], "report_baselines compares likelihoods"),
        (["synthesis.temperature_settings=[[1., 1., 1., 1.]]"], "3 numbers .one per latent group"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_reported_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        check_options(chosen(*overrides))
    assert "\n" not in str(error.value)


def test_every_preset_has_a_plan():
    for (width, depth, finest), found in HALVING.items():
        hparams = load(BASE, [f"data.target_res={finest}", f"model.width={width}", f"model.depth={depth}",
                              "model.prog_mode=0", "model.enc_blocks=''", "model.dec_blocks=''"])  # fmt: skip
        plan = make_plan(hparams)
        assert (plan.patch, plan.width) == ((1, 1), found.outer_width)
    for depth, start in EQUAL:
        hparams = load(BASE, ["data.target_res=64", "model.width=64", f"model.depth={depth}",
                              "model.prog_mode=1", f"model.start_res={start}", "model.enc_blocks=''",
                              "model.dec_blocks=''"])  # fmt: skip
        assert make_plan(hparams).patch == (64 // start,) * 2


def test_first_values_follow_the_original():
    hparams = chosen("model.zdim=4")
    plan = make_plan(hparams)
    values = initial_values(parameter_table(hparams, plan), 0)
    n = len(plan.up)
    assert not values["top_down.blocks.0.prior.convs.3.weight"].any()
    limits = {"bottom_up.blocks.0.cell.convs.0.weight": sqrt(1 / 4),
              "bottom_up.blocks.0.cell.convs.3.weight": sqrt(1 / 8 / n)}  # fmt: skip
    for name, limit in limits.items():
        assert 0.6 * limit < np.abs(values[name]).max() <= limit
    kept = chosen("model.zero_weights=False", "model.init_std=0.1", "model.init_scale=4.")
    values = initial_values(parameter_table(kept, make_plan(kept)), 0)
    assert 0.03 < np.abs(values["top_down.blocks.0.prior.convs.3.weight"]).max() <= 0.05
    triangle, random = (
        initial_values(parameter_table(h, make_plan(h)), 0)["bottom_up.blocks.0.attention.row_bias"]
        for h in (chosen(*TRANSFORMER, f"model.random_init_posenc={flag}") for flag in (False, True))
    )
    np.testing.assert_allclose(triangle[1], [0, 1 / 3, 2 / 3, 1, 2 / 3, 1 / 3, 0], atol=1e-6)
    assert random.min() < 0


def test_sinusoids_count_from_the_end():
    table = sinusoids(8, (3, 3))
    assert table.shape == (3, 3, 8)
    np.testing.assert_allclose(table[0, 2, :4], [np.sin(2), np.sin(0.02), np.cos(2), np.cos(0.02)])
    np.testing.assert_allclose(table[0, 2, 4:], [0, 0, 1, 1])


@pytest.mark.parametrize(
    ("scheme", "rate"),
    [("cosine", 0.9 * 0.5 * (1 + cos(pi * 0.3)) + 0.1), ("linear", 1 - 0.9 * 0.3), ("constant", 1.0)],
)
def test_schedules_multiply_decay_and_warm_up(scheme, rate):
    optimizer = replace(
        chosen().optimizer, learning_rate_scheme=f"{scheme}_times_warmup", learning_rate=2.0,
        min_learning_rate=0.2, decay_steps=100, warmup_steps=40.0,
    )  # fmt: skip
    assert schedules.learning_rate(0, optimizer) == 0
    assert schedules.learning_rate(30, optimizer) == pytest.approx(2 * rate * 30 / 40)
    no_warmup = replace(optimizer, warmup_steps=0.0)
    assert schedules.learning_rate(30, no_warmup) == pytest.approx(2 * rate)
    last = 2.0 if scheme == "constant" else 0.2
    assert schedules.learning_rate(1000, optimizer) == pytest.approx(last)


def test_temperatures_of_levels_and_groups():
    plan = make_plan(chosen())
    assert level_temperatures(plan, (0.5, 0.7)) == (0.5, 0.7, 0.7)
    assert level_temperatures(plan, (0.5, 0.7, 0.9)) == (0.5, 0.7, 0.9)


def test_partial_reconstructions_keep_more_and_more_groups():
    assert cut_points(3) == [1, 2, 3]
    assert cut_points(43) == [1, 9, 18, 26, 35, 43]
    assert [mask.tolist() for mask in group_masks(make_plan(chosen()), 1)] == [[1, 1], [0, 0], [0, 0]]


def test_absolute_errors_are_never_called_bits():
    assert "bits" not in unit_of(make("absolute_errors")[1]).name


def test_json_of_both_programs_becomes_a_configuration(tmp_path):
    first = {"width": 64, "depth": 2, "lr_decay": "none", "train_steps": 100, "iter_factor": 2,
             "train_batch_size": 64, "batch_size_inv_factor": 4, "transformer": False, "prog_mode": False,
             "dataset": {"image_size": 32, "train_path": "a/*", "eval_path": "b/*"}}  # fmt: skip
    path = tmp_path / "hparams-first.cfg"
    path.write_text(cfg_text(options(first, "first"), "converted"))
    found = load(path)
    assert (found.train.total_train_steps, found.train.batch_size, found.optimizer.type) == (
        200,
        16,
        "AdamTF",
    )
    assert found.optimizer.learning_rate_scheme == "constant_times_warmup"
    assert (found.data.dataset_source, found.data.legacy_crop) == ("glob", False)
    records = {**first, "dataset": {**first["dataset"], "tfrecords": True}, "text_seq_len": 4}
    records |= {"padding_id": 9, "save_freq": 7}
    path.write_text(cfg_text(options(records, "records"), "converted"))
    found = load(path)
    assert (found.data.dataset_source, found.data.text_seq_len, found.data.padding_id) == ("tfrecords", 4, 9)
    assert found.train.stabilizer_interval == 7
    later = {"image_size": 16, "width": 8, "custom_width_str": "16:8", "enc_blocks": "16x1",
             "dec_blocks": "16x1", "attn_res": "16", "skip_threshold": -1}  # fmt: skip
    path.write_text(cfg_text(options(later, "later"), "converted"))
    found = load(path)
    assert (found.model.likelihood, found.model.attn_res, found.optimizer.gradient_skip) == (
        "absolute", (16,), False,
    )  # fmt: skip
    with pytest.raises(UserError, match="widht"):
        options({"widht": 3})
    with pytest.raises(UserError, match="adafactor"):
        options({"optimizer": "adafactor"})


def test_values_of_the_first_program_that_change_others():
    for pair in ({"optimizer": "decoy", "lr": 1e-3}, {"lr": 1e-3, "optimizer": "decoy"}):
        assert options(pair)["optimizer.learning_rate"] == 0
    assert options({"epsilon_1": 1e-30, "epsilon_2": 1e-3}) == options({})
    assert options({})["model.truncate_pixels"] is True
    assert "model.truncate_pixels" not in options({"image_size": 8})
    batches = {"train_batch_size": 64, "eval_batch_size": 32, "batch_size_inv_factor": 2}
    assert options({**batches, "eval_steps": 3})["val.n_samples_for_validation"] == 48
    assert options({**batches, "eval_dataset_size": 70})["val.n_samples_for_validation"] == 70
    for never in ({"eval_steps": 0}, {"eval_dataset_size": 0}):
        assert options(never)["val.n_samples_for_validation"] == 2560
        assert "no evaluation" in remarks(never)[0]
    assert remarks({"eval_steps": 2, "eval_dataset_size": 0}) == []


def test_transformer_begins_with_a_learned_tensor_however_fine_it_is():
    assert make_plan(chosen(*TRANSFORMER, "model.no_bias_above=2")).start == (4,)


LATER = {"image_size": 16, "width": 8, "custom_width_str": "16:8", "enc_blocks": "16x1", "dec_blocks": "16x1"}


def test_later_program_takes_keys_that_are_unknown_and_says_so(tmp_path, capsys):
    source, target = tmp_path / "later.json", tmp_path / "later.cfg"
    source.write_text(dumps({**LATER, "wandb_name": "x", "dtype": "bfloat16", "pre_layer": False}))
    convert_configuration(source, target, [])
    output = capsys.readouterr().out.splitlines()
    assert output[:-1] == [f"warning: {source}: 'wandb_name' is unknown and left out"]
    assert load(target).train.precision == "bfloat16"


def test_dcvae_trains_at_the_full_rate_from_the_first_step(tmp_path):
    codes = {
        "gan": True,
        "image_size": 16,
        "vq_res": 8,
        "codebook_size": 4,
        "custom_width_str": "16:8,8:8,4:8",
    }
    path = tmp_path / "codes.cfg"
    path.write_text(cfg_text(options({**codes, "lr": 0.25, "warmup_iters": 9}), "converted"))
    assert [schedules.learning_rate(step, load(path).optimizer) for step in (0, 1, 10**6)] == [0.25] * 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"prog_mode": 0, "lr": "3e-4"}, "JSON key 'lr' must be a number, not 3e-4"),
        ({"prog_mode": 0, "lr": None}, "is not a complete configuration: TypeError"),
        ({"prog_mode": 0, "train_steps": float("inf")}, "is not a complete configuration: OverflowError"),
        ({"prog_mode": 0, "dataset": "x"}, "JSON key 'dataset' must be an object, not x"),
        ({"prog_mode": 0, "use_bf16": "no"}, "JSON key 'use_bf16' must be true or false"),
        ({"prog_mode": 0, "beta_1": "x"}, r"beta1 must be a number, not 'x'"),
        ({"prog_mode": 0, "space2depth": True}, "JSON key 'space2depth' is true"),
        ({**LATER, "attn_res": "a"}, "JSON key 'attn_res' must be resolutions"),
        ({**LATER, "attn_res": [8.5]}, "JSON key 'attn_res' must be resolutions"),
        ({**LATER, "image_size": 8.0}, "JSON key 'image_size' must be a whole number"),
        ({**LATER, "dtype": "float16"}, "JSON key 'dtype': 'float16' is neither"),
        ({**LATER, "pre_layer": True}, "JSON key 'pre_layer' is true"),
    ],
)
def test_values_of_a_wrong_type_are_reported_with_the_file(tmp_path, config, message):
    source, target = tmp_path / "wrong.json", tmp_path / "wrong.cfg"
    source.write_text(dumps(config))
    with pytest.raises(UserError, match=message) as error:
        convert_configuration(source, target, [])
    assert str(error.value).startswith(str(source))
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == [source]


def test_progress_tells_bits_and_nats():
    hparams = chosen()
    plan = make_plan(hparams)
    family = LatentGroupsRun(SimpleNamespace(hparams=hparams, engine=None), plan)
    kl = {f"kl.{group}": 0.0 for group in range(len(plan.groups))}
    message = family.headline({"reconstruction": 2.0 * plan.image_dims, "skips": 0.0, **kl})
    assert message == "-ELBO 2.8854 bits/dim (2.0000 nats/dim)"


def vdvae_weights(plan, weights):
    """Canonical weights under the names of openai/vdvae."""
    found = {}
    for name, array in weights.items():
        for ours, theirs in (
            ("bottom_up.input_conv", "encoder.in_conv"), ("bottom_up.blocks", "encoder.enc_blocks"),
            (".cell.", "."), ("top_down.blocks", "decoder.dec_blocks"), (".posterior.", ".enc."),
            (".residual.", ".resnet."), ("z_projection", "z_proj"),
            ("top_down.output_conv", "decoder.out_net.out_conv"), ("top_down.gain", "decoder.gain"),
            ("top_down.bias", "decoder.bias"),
            *((f".convs.{k}.", f".c{k + 1}.") for k in range(4)),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        if name.startswith("top_down.start."):
            name = f"decoder.bias_xs.{plan.start.index(int(name.rpartition('.')[2]))}"
        found[name] = array
    return found


def test_weights_of_vdvae_are_found_and_mistakes_named(tmp_path):
    hparams = load(BASE, VDVAE)
    plan = make_plan(hparams)
    weights = initial_values(parameter_table(hparams, plan), 1)
    theirs = vdvae_weights(plan, weights)
    found = from_vdvae(theirs, hparams)
    assert found.keys() == weights.keys()
    assert all((found[name] == weights[name]).all() for name in weights)
    some = next(iter(theirs))
    for changed, words in (
        ({k: v for k, v in theirs.items() if k != some}, "lacks the tensor"),
        ({**theirs, "decoder.extra": np.zeros(1)}, "'decoder.extra' is unknown"),
        ({**theirs, some: np.zeros((1, 2))}, "has shape"),
    ):
        with pytest.raises(UserError, match=words):
            from_vdvae(changed, hparams)


def test_a_data_set_without_counterpart_is_named():
    """0.1.0 silently ignored it."""
    later = {"image_size": 32, "width": 8, "enc_blocks": "32x1,32d4,8x1", "dec_blocks": "8x1,32m8,32x1"}
    assert options({**later, "dataset": "cifar10"})["data.dataset_source"] == "cifar-10"
    assert remarks({**later, "dataset": "cifar10"}) == []
    (remark,) = remarks({**later, "dataset": "lsun/church_outdoor"})
    assert "the data set lsun/church_outdoor of tensorflow_datasets has no counterpart" in remark
    assert "data.train_data_path" in remark
    first = {"model_path": "x", "dataset": {"train_path": "a", "shuffle": 3}}
    assert remarks(first) == ["'dataset.shuffle' is unknown and left out"]


def test_faces_of_1024_pixels_have_the_sizes_of_the_paper():
    hparams = load("egs/vdvae/ffhq1024.cfg")
    plan = make_plan(hparams)
    n = sum(np.prod(p.shape) for p in parameter_table(hparams, plan).values())
    assert len(plan.groups) == 72
    assert round(n / 1e6) == 115
