"""Checkpoints survive any accident to the process, the disk and the files."""

import errno
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from dioscuri.checkpoint import store
from dioscuri.checkpoint.compare import match
from dioscuri.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def state_of(step):
    rng = np.random.default_rng(step)
    weight = rng.normal(size=(4, 3, 2, 2)).astype(np.float32)
    return {
        "model": {"conv.weight": weight, "conv.bias": np.full(4, step, np.float32)},
        "ema": {"conv.weight": weight / 2, "conv.bias": np.zeros(4, np.float32)},
        "optimizer": {"exp_avg.conv.weight": weight * 3, "scalar": np.array(step, np.float32)},
        "counters": {"updates": np.array(step), "skips": np.int32(2)},
    }


def info_of(step):
    return {
        "data": {"next_index": 7 * step},
        "random": {"seed": 1, "step": step},
        "metrics": {"nelbo": np.float32(2.5)},
    }


def save(root, step, **options):
    return store.save(root, step, state_of(step), info_of(step), **{"keep": 3, **options})


def assert_same(checkpoint, step):
    assert checkpoint.step == step
    expected = state_of(step)
    assert checkpoint.state.keys() == expected.keys()
    for group, tensors in expected.items():
        assert checkpoint.state[group].keys() == tensors.keys()
        for name, array in tensors.items():
            np.testing.assert_array_equal(checkpoint.state[group][name], array, strict=group != "counters")


def damage(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(bytes(content))


def test_a_checkpoint_returns_what_was_saved(tmp_path):
    path = save(tmp_path, 12, best=12)
    checkpoint = store.load(tmp_path)
    assert path == checkpoint.path == tmp_path / "step-00000012"
    assert_same(checkpoint, 12)
    assert checkpoint.info["data"] == {"next_index": 84}
    assert checkpoint.info["metrics"] == {"nelbo": 2.5}
    assert checkpoint.info["best_step"] == 12
    assert checkpoint.warnings == ()
    assert {file.name for file in path.iterdir()} == {
        "model.safetensors",
        "ema.safetensors",
        "optimizer.safetensors",
        "state.json",
    }


def test_equal_states_give_identical_files(tmp_path):
    first, second = save(tmp_path / "a", 3), save(tmp_path / "b", 3)
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes()


def test_arrays_of_any_memory_order_keep_their_values(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 4, 5, 3)).astype(np.float32)
    tensors = {
        "transposed": images.transpose(0, 3, 1, 2),
        "fortran": np.asfortranarray(images),
        "strided": images[:, ::2],
        "scalar": np.float64(3.5),
        "empty": np.zeros((0, 3), np.float32),
        "float64": images.astype(np.float64),
    }
    store.save(tmp_path, 1, {"model": tensors}, {}, keep=1)
    loaded = store.load(tmp_path).state["model"]
    for name, array in tensors.items():
        np.testing.assert_array_equal(loaded[name], np.asarray(array), strict=True)
        assert loaded[name].flags.writeable
        assert loaded[name].flags.c_contiguous


def test_the_newest_and_the_best_are_kept(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step, keep=2, best=3 if step >= 3 else None)
    assert store.steps(tmp_path) == [3, 6, 7]
    assert store.load(tmp_path).step == 7
    assert_same(store.load(tmp_path, "best"), 3)
    assert_same(store.load(tmp_path, 6), 6)


def test_saving_a_step_again_replaces_it(tmp_path):
    save(tmp_path, 5)
    store.save(tmp_path, 5, state_of(9), {}, keep=1)
    assert store.steps(tmp_path) == [5]
    np.testing.assert_array_equal(store.load(tmp_path).state["model"]["conv.bias"], np.full(4, 9, np.float32))


def test_what_is_asked_for_but_absent_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*train the run"):
        store.load(tmp_path / "nowhere")
    save(tmp_path, 4)
    save(tmp_path, 8)
    with pytest.raises(UserError, match=r"no checkpoint of step 5 .*there are: 4, 8"):
        store.load(tmp_path, 5)
    with pytest.raises(UserError, match="no best checkpoint"):
        store.load(tmp_path, "best")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: damage(path / "model.safetensors"), "model.safetensors does not match its sha256"),
        (lambda path: os.truncate(path / "ema.safetensors", 100), "ema.safetensors does not match"),
        (lambda path: (path / "optimizer.safetensors").unlink(), "optimizer.safetensors is missing"),
        (lambda path: (path / "state.json").unlink(), "state.json is missing"),
        (lambda path: os.truncate(path / "state.json", 60), "state.json"),
        (lambda path: (path / "state.json").write_text("[]"), "state.json holds no JSON object"),
        (lambda path: (path / "state.json").write_text("[" * 100_000), "state.json"),
        (lambda path: (path / "state.json").write_text('{"format": 99}'), "format 99"),
        (lambda path: (path / "state.json").write_text('{"format": 1, "step": 1}'), "lacks"),
    ],
)
def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path, spoil, reason):
    save(tmp_path, 1)
    spoil(save(tmp_path, 2))
    checkpoint = store.load(tmp_path)
    assert_same(checkpoint, 1)
    (warning,) = checkpoint.warnings
    assert "step-00000002" in warning
    assert reason in warning
    assert "\n" not in warning
    with pytest.raises(UserError, match="step-00000002 is damaged"):
        store.load(tmp_path, 2)
    spoil(tmp_path / "step-00000001")
    with pytest.raises(UserError, match=r"no undamaged checkpoint .*step-00000002.*step-00000001"):
        store.load(tmp_path)


def test_damaged_checkpoints_do_not_push_out_sound_ones(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=3)
    (tmp_path / "step-00000003" / "model.safetensors").unlink()
    damage(tmp_path / "step-00000002" / "model.safetensors")
    save(tmp_path, 2, keep=1)
    assert_same(store.load(tmp_path), 2)
    save(tmp_path, 4, keep=2)
    assert store.steps(tmp_path) == [2, 4]


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("function", ["fsync", "rename"])
def test_a_full_disk_leaves_older_checkpoints_and_no_litter(tmp_path, monkeypatch, function):
    save(tmp_path, 1, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(os, function, failing(errno.ENOSPC))
        with pytest.raises(UserError, match=r"no space left .*step 2 was not written, older ones are intact"):
            save(tmp_path, 2, keep=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert_same(store.load(tmp_path), 1)
    save(tmp_path, 2, keep=1)
    assert store.steps(tmp_path) == [2]


def test_a_file_system_that_is_really_full(tmp_path):
    """On a file system of 64 KiB, if we may mount one."""
    script = textwrap.dedent("""
        import os, subprocess, sys
        from pathlib import Path
        sys.path[:0] = sys.argv[2:]
        root = Path(sys.argv[1])
        mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(root)]
        if subprocess.run(mount, capture_output=True).returncode:
            sys.exit(77)
        import numpy as np
        from dioscuri.checkpoint import store
        from dioscuri.errors import UserError
        store.save(root / "c", 1, {"model": {"x": np.ones(4000, np.float32)}}, {}, keep=2)
        try:
            store.save(root / "c", 2, {"model": {"x": np.ones(40000, np.float32)}}, {}, keep=2)
        except UserError as error:
            print(error)
        assert [entry.name for entry in (root / "c").iterdir()] == ["step-00000001"]
        assert store.load(root / "c").step == 1
    """)
    unshare = ["unshare", "--mount", "--map-root-user"]
    command = [sys.executable, "-c", script, str(tmp_path), str(REPOSITORY)]
    try:
        done = subprocess.run([*unshare, *command], capture_output=True, text=True, timeout=300, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare command here")
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("mounting is not permitted here")
    assert done.returncode == 0, done.stderr
    assert "no space left" in done.stdout


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*Not a directory"):
        save(tmp_path / "file" / "checkpoints", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", failing(errno.EACCES))
        with pytest.raises(
            UserError, match=r"cannot be written to .*Permission denied.*make the folder writable"
        ):
            save(tmp_path / "new", 1)


def test_reserved_information_is_refused(tmp_path):
    with pytest.raises(ValueError, match="may not hold"):
        store.save(tmp_path, 1, state_of(1), {"step": 3}, keep=1)


KILLED = """
import os, signal, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from test_checkpoint_store import save

def die_before_change(number):
    def counted(function):
        def call(*arguments, **options):
            nonlocal number
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            number -= 1
            return function(*arguments, **options)
        return call

    for name in ("fsync", "rename", "rmdir", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))

for number in range(40):
    root = Path(sys.argv[3]) / str(number)
    save(root, 1, keep=1)
    save(root, 2, keep=1)
    if (child := os.fork()) == 0:
        die_before_change(number)
        save(root, int(sys.argv[4]), keep=1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != -signal.SIGKILL:
        sys.exit(0)
sys.exit(1)
"""


@pytest.mark.parametrize("step", [2, 3])
def test_kill_9_at_any_moment_of_a_save_leaves_a_sound_checkpoint(tmp_path, step):
    """The process dies before its n-th change of the disk, for every n until it succeeds."""
    here = str(Path(__file__).parent)
    subprocess.run(
        [sys.executable, "-c", KILLED, str(REPOSITORY), here, str(tmp_path), str(step)],
        timeout=300,
        check=True,
    )
    roots = sorted(tmp_path.iterdir(), key=lambda root: int(root.name))
    assert len(roots) > 8
    actual = []
    for root in roots:
        store.clean(root)
        checkpoint = store.load(root)
        actual.append(checkpoint.step)
        assert checkpoint.warnings == ()
        assert_same(checkpoint, checkpoint.step)
        save(root, 9, keep=1)
        assert [entry.name for entry in root.iterdir()] == ["step-00000009"]
    assert actual == sorted(actual)
    assert (actual[0], actual[-1]) == (2, step)


def test_state_json_is_readable_by_any_json_reader(tmp_path):
    path = save(tmp_path, 1)
    content = json.loads((path / "state.json").read_text())
    assert content["step"] == 1
    assert content["counters"] == {"updates": 1, "skips": 2}
    assert len(content["files"]["model.safetensors"]["sha256"]) == 64


class TestMatch:
    expected = MappingProxyType({"a.2.weight": (3, 2), "a.10.weight": (4,), "b": ()})

    def arrays(self):
        return {name: np.zeros(shape) for name, shape in self.expected.items()}

    def test_equal_tables_pass(self):
        match(self.expected, self.arrays(), "model", "file")

    def test_another_shape_is_named_with_both(self):
        arrays = {**self.arrays(), "a.2.weight": np.zeros((2, 3)), "b": np.zeros(1)}
        with pytest.raises(
            UserError, match=r"file: ema tensor 'a\.2\.weight' has shape \(2, 3\) but .* \(3, 2\)"
        ):
            match(self.expected, arrays, "ema", "file")

    def test_the_first_by_number_is_named(self):
        arrays = {**self.arrays(), "a.10.weight": np.zeros(1), "a.3.weight": np.zeros(5)}
        with pytest.raises(
            UserError, match=r"'a\.3\.weight' with shape \(5,\) is unknown .*\(1 more differ\)"
        ):
            match(self.expected, arrays, "model", "file")

    def test_a_missing_tensor_is_named(self):
        arrays = self.arrays()
        del arrays["b"]
        with pytest.raises(UserError, match=r"'b' is missing, the configuration has it with shape \(\)"):
            match(self.expected, arrays, "model", "file")
