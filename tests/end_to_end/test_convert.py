"""`dioscuri convert`: original checkpoints become runs and back, foreign files one error line."""

import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from dioscuri.checkpoint import store
from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.hparams import load
from dioscuri.importers.efficient_vdvae_names import key_table

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "golden" / "cases" / "hierarchical_vae"
TORCH_FILE = CASES / "torch_checkpoint" / "checkpoints-torch_checkpoint"
TORCH_CFG = CASES / "torch_checkpoint" / "hparams.cfg"
FLAX_FILE = CASES / "jax_mol8" / "checkpoint_3"
FLAX_CFG = CASES / "jax_mol8" / "hparams.cfg"


def run(*words):
    convert([str(word) for word in words])


def assert_same(left, right, where=""):
    """Equal in structure, types and bits."""
    if isinstance(left, dict):
        assert list(left) == list(right), where
        for key in left:
            assert_same(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list):
        assert len(left) == len(right), where
        for one, other in zip(left, right, strict=True):
            assert_same(one, other, where)
    elif isinstance(left, torch.Tensor):
        assert (left.dtype, left.shape) == (right.dtype, right.shape), where
        assert torch.equal(left, right), where
    else:
        assert type(left) is type(right), where
        assert left == right, where


def test_a_torch_checkpoint_goes_through_a_run_and_back_unchanged(tmp_path, capsys):
    """Except the learning rate of the next step, which is recomputed in double precision."""
    folder, out = tmp_path / "logs-imported", tmp_path / "out" / "checkpoints-imported"
    run(TORCH_FILE, "--cfg", TORCH_CFG, "--run", folder)
    assert "3 batches, 3 updates" in capsys.readouterr().out
    run(folder, "--to-torch", out)
    original, returned = (torch.load(path, weights_only=True) for path in (TORCH_FILE, out))
    rates = [
        (
            saved["optimizer_state_dict"]["param_groups"][0].pop("lr"),
            *saved["scheduler_state_dict"].pop("_last_lr"),
        )
        for saved in (original, returned)
    ]
    np.testing.assert_allclose(rates[1], rates[0], rtol=1e-6)
    assert_same(original, returned)


def test_the_run_holds_the_recorded_weights(tmp_path):
    run(TORCH_FILE, "--cfg", TORCH_CFG, "--run", tmp_path / "logs-imported")
    checkpoint = store.load(tmp_path / "logs-imported" / "checkpoints")
    outputs = np.load(CASES / "torch_checkpoint" / "outputs.npz")
    table = key_table(make_plan(load(TORCH_CFG)))
    assert checkpoint.step == 3
    assert checkpoint.info["random"] == {"seed": 420, "step": 3}
    assert checkpoint.info["hparams"]["model"]["num_output_mixtures"] == 2
    for key in table:
        recorded = outputs[f"params_after/{key.torch}"]
        np.testing.assert_array_equal(checkpoint.state["model"][key.name], recorded, strict=True)
        recorded = outputs[f"ema_after/{key.torch}"]
        np.testing.assert_array_equal(checkpoint.state["ema"][key.name], recorded, strict=True)
    for index in (0, 3, 134):
        for moment in ("exp_avg", "exp_inf"):
            np.testing.assert_array_equal(
                checkpoint.state["optimizer"][f"{moment}.{table[index].name}"],
                outputs[f"opt_state/{index}/{moment}"],
                strict=True,
            )


@pytest.mark.parametrize("whole_folder", [False, True])
def test_a_flax_checkpoint_becomes_a_run_and_a_torch_checkpoint(tmp_path, whole_folder):
    source = FLAX_FILE
    if whole_folder:
        source = tmp_path / "checkpoints-jax_mol8"
        source.mkdir()
        shutil.copy(FLAX_FILE, source / "checkpoint_10")
        (source / "checkpoint_9").write_bytes(b"an older one")
    folder, out = tmp_path / "logs-imported", tmp_path / "checkpoints-imported"
    run(source, "--cfg", FLAX_CFG, "--run", folder, "train.ema_decay=0.5")
    run(folder, "--to-torch", out, "--step", "3")
    written = torch.load(out, weights_only=True)
    assert written["global_step"] == 2
    table = key_table(make_plan(load(FLAX_CFG)))
    assert list(written["model_state_dict"]) == [key.torch for key in table]
    recorded = np.load(CASES / "jax_mol8" / "outputs.npz")
    name = "top_down.levels_down_upsample.0.unpool.ops.0.weight"
    path = "params_after/top_down/block_down_level_0_upsample/unpooling_layer/conv/conv/kernel"
    actual = written["model_state_dict"][name].numpy()
    np.testing.assert_array_equal(actual, recorded[path].transpose(3, 2, 0, 1))
    again = tmp_path / "logs-again"
    run(out, "--cfg", FLAX_CFG, "--run", again)
    first, second = (store.load(place / "checkpoints").state for place in (folder, again))
    for group, tensors in first.items():
        for key, array in tensors.items():
            np.testing.assert_array_equal(second[group][key], array, strict=True)


def test_the_written_optimiser_state_is_accepted_by_torch(tmp_path):
    """PyTorch's Adam loads it and continues."""
    case = CASES / "torch_logstd5" / "hparams.cfg"
    plan = make_plan(load(case))
    table = key_table(plan)
    weights = {name: torch.nn.Parameter(torch.ones(shape)) for name, shape in shapes_of(plan).items()}
    parameters = [weights[key.name] for key in table]
    optimiser = torch.optim.Adam(parameters, lr=1e-3)
    for index, key in enumerate(table):
        parameters[index].grad = torch.full_like(parameters[index], 0.5) if key.trained else None
    optimiser.step()
    state_dict = {key.torch: parameter.detach() for key, parameter in zip(table, parameters, strict=True)}
    original = tmp_path / "original"
    torch.save(
        {
            "global_step": 0,
            "model_state_dict": state_dict,
            "ema_model_state_dict": state_dict,
            "optimizer_state_dict": optimiser.state_dict(),
            "scheduler_state_dict": {},
        },
        original,
    )
    run(original, "--cfg", case, "--run", tmp_path / "logs-adam", "optimizer.type='Adam'")
    run(tmp_path / "logs-adam", "--to-torch", tmp_path / "written")
    written = torch.load(tmp_path / "written", weights_only=True)
    assert_same(optimiser.state_dict()["state"], written["optimizer_state_dict"]["state"])
    other = torch.optim.Adam(parameters, lr=1.0)
    other.load_state_dict(written["optimizer_state_dict"])
    other.step()
    assert other.state[parameters[0]]["step"] == 2


def shapes_of(plan):
    from dioscuri.families.hierarchical_vae.initialisation import parameter_table

    return {name: parameter.shape for name, parameter in parameter_table(plan).items()}


@pytest.mark.parametrize("twin", ["torch_impl", "jax_impl"])
@pytest.mark.parametrize(("source", "cfg"), [(TORCH_FILE, TORCH_CFG), (FLAX_FILE, FLAX_CFG)])
def test_both_twins_take_the_state_and_give_it_back_unchanged(tmp_path, twin, source, cfg):
    run(source, "--cfg", cfg, "--run", tmp_path / "logs-new", "run.num_gpus=0")
    state = store.load(tmp_path / "logs-new" / "checkpoints").state
    engine = import_module(f"{twin}.engine").Engine(load(cfg, ["run.num_gpus=0"]))
    engine.state_from_numpy(state)
    returned = engine.state_to_numpy()
    assert returned.keys() == state.keys()
    for group, tensors in state.items():
        assert returned[group].keys() >= tensors.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(returned[group][name], array, err_msg=f"{group} {name}")


class Evil:
    def __reduce__(self):
        return (print, ("unpickled",))


def foreign_files(folder):
    """Name of a file that is not a checkpoint -> the error."""
    content = TORCH_FILE.read_bytes()
    (folder / "truncated").write_bytes(content[: len(content) // 2])
    (folder / "empty").write_bytes(b"")
    (folder / "text").write_text("no checkpoint")
    (folder / "flax").write_bytes(FLAX_FILE.read_bytes()[:-1])
    torch.save([torch.ones(2)], folder / "list")
    torch.save({"weight": torch.ones(2)}, folder / "other")
    torch.save({"global_step": Evil()}, folder / "evil")
    (folder / "folder").mkdir()
    return {
        "truncated": "is truncated or holds more than weights",
        "empty": "is neither a PyTorch nor a flax checkpoint",
        "text": "is neither a PyTorch nor a flax checkpoint",
        "flax": "is truncated or not a flax msgpack file",
        "list": "holds a list, not a checkpoint",
        "other": "lacks global_step, model_state_dict",
        "evil": "is truncated or holds more than weights",
        "folder": "holds no file checkpoint_<step>",
        "missing": "No such file or directory",
    }


def test_foreign_files_are_refused_and_leave_no_run(tmp_path, capsys):
    for name, message in foreign_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            run(tmp_path / name, "--cfg", TORCH_CFG, "--run", tmp_path / "logs-new")
        assert message in str(caught.value), name
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "logs-new").exists()
    assert "unpickled" not in capsys.readouterr().out


def test_another_architecture_is_named_with_both_shapes(tmp_path):
    with pytest.raises(UserError) as caught:
        run(TORCH_FILE, "--cfg", CASES / "torch_mol8" / "hparams.cfg", "--run", tmp_path / "logs-new")
    assert "model tensor 'bottom_up.input_conv.bias' has shape (6,) but the configuration has (12,)" in str(
        caught.value
    )
    assert not (tmp_path / "logs-new").exists()


def test_a_run_with_checkpoints_is_not_overwritten(tmp_path):
    run(TORCH_FILE, "--cfg", TORCH_CFG, "--run", tmp_path / "logs-new")
    with pytest.raises(UserError, match="already has a checkpoint of step 3"):
        run(TORCH_FILE, "--cfg", TORCH_CFG, "--run", tmp_path / "logs-new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["file", "--run", "logs-x"], "does not state its architecture"),
        (
            ["file", "--cfg", "x.cfg"],
            "give --run, --to-cfg, --to-folder or --to-torch; usage: dioscuri convert SOURCE",
        ),
        (["file", "--cfg", str(TORCH_CFG), "--run", "x"], "must be named logs-<run.name>"),
        (["logs-x", "--to-torch", "out", "--cfg", "x.cfg"], "take their options from the run"),
        (["logs-x", "--to-torch", "out", "--step", "last"], "--step last is neither a number nor 'best'"),
        (["--what"], "usage: dioscuri convert SOURCE"),
        (["a.yaml", "--to-cfg", "out.cfg", "--step", "3"], "--step is for --to-folder and --to-torch"),
        (["a.yaml", "--to-cfg", "out.cfg", "--cfg", "x.cfg"], "--cfg is for --run"),
        (["logs-x", "--to-folder", "out", "--weights", "raw"], "--weights is for --run"),
        (
            ["logs-x", "--to-folder", "a", "--to-torch", "b"],
            "give --run, --to-cfg, --to-folder or --to-torch",
        ),
    ],
)
def test_mistakes_in_the_command_line(words, message):
    with pytest.raises(UserError) as caught:
        run(*words)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exporting_a_run_that_has_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        run(tmp_path / "logs-nothing", "--to-torch", tmp_path / "out")
    run(TORCH_FILE, "--cfg", TORCH_CFG, "--run", tmp_path / "logs-new")
    with pytest.raises(UserError, match="no checkpoint of step 7"):
        run(tmp_path / "logs-new", "--to-torch", tmp_path / "out", "--step", "7")
    with pytest.raises(UserError, match="cannot be written"):
        run(tmp_path / "logs-new", "--to-torch", TORCH_FILE / "out")
    shutil.rmtree(tmp_path / "logs-new" / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint in"):
        run(tmp_path / "logs-new", "--to-torch", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_exits_with_2_and_one_line(tmp_path):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "dioscuri",
        "convert",
        str(tmp_path / "nowhere"),
        "--cfg",
        str(TORCH_CFG),
    ]
    done = subprocess.run(
        [*command, "--run", "logs-x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoint ")
    assert done.stderr.count("\n") == 1
    done = subprocess.run(
        [*command[:4], "--help"], capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert done.returncode == 0
    assert "--to-torch" in done.stdout
