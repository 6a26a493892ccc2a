"""The wheel alone: installed into a new folder, used from another, next to a user's modules."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from dioscuri import __version__
from tests.support.tiny import write_tiny

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))
FRAMEWORKS = {"torch": ("torch", "functorch"), "jax": ("jax", "flax", "optax")}


def tree(folder: Path) -> list[str]:
    """Files and folders below a folder, without caches of Python and the tests."""
    paths = (str(path.relative_to(folder)) for path in folder.rglob("*"))
    return sorted(path for path in paths if "__pycache__" not in path)


def source() -> list[str]:
    """A clone's source, which building the package must not change."""
    names = (path.name for path in ROOT.iterdir() if not path.name.startswith("."))
    return [*names, *tree(ROOT / "build"), *tree(ROOT / "dioscuri")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel; building it does not change the source."""
    folder, before = tmp_path_factory.mktemp("wheel"), source()
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*pip, "-w", str(folder), str(ROOT)], check=True, cwd=folder)
    assert source() == before
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder into which the wheel is installed."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "-q"]
    subprocess.run([*pip, "--target", str(folder), str(wheel)], check=True)
    return folder


@pytest.fixture
def user(installed, tmp_path):
    """A user's working folder, with modules named like ours once were, and a function that runs Python there.

    The interpreter sees the wheel and other packages, but neither this clone nor an editable install of it.
    """
    (tmp_path / "common").mkdir()
    for name in ("common/__init__.py", "convert.py", "evaluate.py", "sweep.py"):
        (tmp_path / name).write_text("raise SystemExit('a module of the user was imported')\n")

    def python(*words, packages=SITE, **environment):
        paths = os.pathsep.join(map(str, (installed, packages)))
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIOSCURI_")}
        done = subprocess.run(
            [sys.executable, "-S", *map(str, words)],
            cwd=tmp_path,
            env={
                **inherited,
                "PYTHONPATH": paths,
                "PYTHONDONTWRITEBYTECODE": "1",
                "XDG_CACHE_HOME": str(tmp_path / "cache"),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        return SimpleNamespace(code=done.returncode, out=done.stdout, errors=done.stderr)

    return SimpleNamespace(folder=tmp_path, python=python)


def without(twin: str, folder: Path) -> Path:
    """The environment's packages without those of one framework, and without traces of an editable install
    of this project."""
    folder.mkdir()
    for path in SITE.iterdir():
        if path.name.partition("-")[0] not in (*FRAMEWORKS[twin], "dioscuri"):
            (folder / path.name).symlink_to(path)
    return folder


def test_it_holds_three_packages_the_examples_and_the_command(wheel):
    with ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "dioscuri = dioscuri.cli.main:main" in archive.read(entry).decode()
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        extras = [line for line in archive.read(metadata).decode().splitlines() if "Provides-Extra" in line]
    tops = {name.partition("/")[0] for name in names if ".dist-info" not in name}
    assert tops == {"dioscuri", "torch_impl", "jax_impl"}
    assert "dioscuri/py.typed" in names
    shipped = {name.removeprefix("dioscuri/") for name in names if name.startswith("dioscuri/egs/")}
    assert shipped == {str(path.relative_to(ROOT)) for path in (ROOT / "egs").rglob("*") if path.is_file()}
    models = {name for name in names if name.startswith("dioscuri/pretrained/")}
    assert {
        f"dioscuri/pretrained/digits-vae/{file}" for file in ("config.json", "model.safetensors")
    } < models
    assert not [name for name in names if "logs-" in name or name.endswith((".sh", ".pyc"))]
    assert {f"Provides-Extra: {name}" for name in ("torch", "jax", "wandb", "text")} <= set(extras)


@pytest.mark.parametrize("command", [("-m", "dioscuri"), ("script",)], ids=["module", "script"])
def test_commands_work_beside_modules_of_the_user(user, installed, command):
    command = [installed / "bin" / "dioscuri"] if command == ("script",) else command
    for words in ((), ("evaluate", "--help"), ("convert", "--help"), ("sweep", "--help")):
        done = user.python(*command, *words)
        assert (done.code, done.errors) == (0, "")
        assert done.out.startswith("usage: dioscuri")
    code = "import common"
    assert "of the user" in user.python("-c", code).errors, "the modules are there"
    code = "import dioscuri, sys; print(dioscuri.__version__, {'torch', 'jax'} & set(sys.modules))"
    assert user.python("-c", code).out == f"{__version__} set()\n"


@pytest.mark.slow
@pytest.mark.parametrize(("twin", "other"), [("torch", "jax"), ("jax", "torch")])
def test_it_trains_on_pictures_of_the_user_and_writes_where_he_works(user, installed, twin, other):
    """The other twin's framework is missing."""
    (user.folder / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for n in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(user.folder / f"pictures/{n}.png")
    write_tiny(user.folder)
    before = tree(installed)
    # The shipped model takes JAX a minute to compile.
    cfg = {"torch": "egs/hierarchical_vae/digits.cfg", "jax": "tiny.cfg"}[twin]
    data = [f"data.{split}_data_path=pictures" for split in ("train", "val", "synthesis")]
    size = ["train.total_train_steps=2", "train.batch_size=4", "val.batch_size=4"]
    words = [cfg, "run.name=mine", "data.dataset_source=custom", *data, *size]
    packages = without(other, user.folder / "packages")
    done = user.python("-m", "dioscuri", "train", *words, packages=packages)
    assert done.code == 0, done.errors
    shipped = f"configuration {cfg}: the one shipped with Dioscuri, {installed / 'dioscuri' / 'egs'}"
    assert (shipped in done.out) == (twin == "torch")
    report = json.loads((user.folder / "logs-mine" / "report.json").read_text())
    assert report["step"] == 2
    code = f"from dioscuri import {twin} as dio; print(dio.load('logs-mine').generate(n=2, seed=1).shape)"
    done = user.python("-c", code, packages=packages)
    assert (done.code, done.out) == (0, "(2, 8, 8, 1)\n"), done.errors
    assert tree(installed) == before
    assert not (user.folder / "torch_impl").exists()


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_a_missing_framework_is_named_with_the_command_that_installs_it(user, twin):
    other = {"torch": "jax", "jax": "torch"}[twin]
    packages = without(twin, user.folder / "packages")
    done = user.python("-m", "dioscuri", "train", "--twin", twin, packages=packages)
    assert done.code == 2
    assert done.errors.startswith(f"error: the {'PyTorch' if twin == 'torch' else 'JAX'} twin needs ")
    assert done.errors.endswith(f"which is not installed: pip install 'dioscuri[{twin}]'\n")
    code = f"import dioscuri\ntry: import dioscuri.{twin}\nexcept dioscuri.UserError as error: print(error)"
    assert f"error: {user.python('-c', code, packages=packages).out}" == done.errors
    code = "from dioscuri.twins import default_twin, open_twin; print(open_twin(default_twin()).name)"
    assert user.python("-c", code, packages=packages).out == f"{other}\n"
    code = "from dioscuri.checkpoint.torch_files import torch_bytes; torch_bytes({})"
    errors = user.python("-c", code, packages=packages).errors
    assert ("pip install 'dioscuri[torch]'" in errors) == (twin == "torch")
