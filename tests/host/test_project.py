"""Promises about the project as a whole: what it must contain, and what it must not."""

import re
import subprocess
from pathlib import Path

import pytest

from dioscuri import __version__, hparams
from dioscuri.contract import check_options
from dioscuri.families.maskgit import transformers
from dioscuri.families.sundae import plan as denoiser

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "egs").rglob("*.cfg"))
SCRIPTS = sorted(path for folder in (".", "build", "tests", "data_scripts", "torch_impl", "jax_impl")
                 for path in (ROOT / folder).glob("*.sh"))  # fmt: skip
BACKENDS = ("cpu", "cuda", "tpu")


def tracked_files() -> list[Path]:
    """Files under version control, or every file of a tree without it, as in an image."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listing.returncode == 0:
        return [ROOT / name for name in listing.stdout.split("\0") if name and (ROOT / name).is_file()]
    hidden = re.compile(r"(^|/)(\.venv|\.git/|\.[a-z_]+_cache|logs-|datasets/|__pycache__|[^/]+\.egg-info)")
    return [p for p in ROOT.rglob("*") if p.is_file() and not hidden.search(str(p.relative_to(ROOT)))]


def pins(backend: str) -> dict[str, str]:
    """Package -> version of a backend's requirements."""
    lines = (ROOT / "build" / f"requirements-{backend}.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_shipped_configuration_loads_and_fits_together(path):
    options = hparams.load(path)
    assert options.run.family == {"vdvae": "metroplex"}.get(path.parent.name, path.parent.name)
    plans = {"maskgit": transformers, "sundae": denoiser}
    if options.run.family in plans:  # the tokenizer's run need not be there
        plans[options.run.family].plan_of(options)
    else:
        check_options(options)


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_shipped_configuration_says_how_to_run_it(path):
    header = path.read_text().split("[", 1)[0]
    assert all(word in header for word in ("Command:", "train.sh", "Hardware:"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_script_is_posix_shell(script):
    assert script.read_text().startswith("#!/bin/sh\n")
    check = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (check.returncode, check.stderr) == (0, "")


def test_readme_names_only_files_that_exist():
    text = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text)
    quoted = re.findall(
        r"(?:^|[\s`(])((?:dioscuri|torch_impl|jax_impl|tests|egs|build|docs|data_scripts)/[\w./-]*\w)", text
    )
    assert linked
    assert quoted
    made_by_running = re.compile(r"/logs-|__pycache__")
    missing = [p for p in {*linked, *quoted} if not made_by_running.search(p) and not (ROOT / p).exists()]
    assert not missing


def test_one_version_everywhere():
    changes = re.search(r"^## (\d+\.\d+\.\d+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    citation = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert changes[1] == citation[1] == __version__


def test_readme_is_short_and_its_prose_is_narrow_or_unwrapped():
    """A paragraph is one line, or at most 100 characters wide; tables, lists and code may be wider."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    paragraphs = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL).split("\n\n")
    prose = [p.strip().splitlines() for p in paragraphs if p and not p.startswith(("|", "- ", "#", "!", "<"))]
    wide = [lines for lines in prose if len(lines) > 1 and max(map(len, lines)) > 100]
    assert not wide


def test_no_host_of_a_package_registry_and_no_foreign_path():
    """The source of packages is the machine's affair, and files mention only this project."""
    hosts = re.compile(r"pypi\.(org|python)|pythonhosted|download\.pytorch|index-url\s+http|find-links")
    paths = re.compile(r"(?<![\w.<])/(w[o]rk|root|tmp/proto)/")
    problems = []
    for path in tracked_files():
        if path.suffix not in (".npz", ".safetensors", ".png") and path != Path(__file__):
            text = path.read_text(errors="ignore")
            matches = [*hosts.finditer(text), *paths.finditer(text)]
            problems += [f"{path.relative_to(ROOT)}: {match.group()}" for match in matches]
    assert not problems


@pytest.mark.parametrize("backend", BACKENDS)
def test_requirements_are_exact_and_sorted(backend):
    assert list(pins(backend)) == sorted(pins(backend))
    assert all(re.fullmatch(r"[\w.]+", version) for version in pins(backend).values())
    assert {"torch", "jax", "jaxlib", "flax", "optax", "numpy", "pytest", "ruff"} <= set(pins(backend))


def test_backends_agree_on_every_package_they_share():
    shared = set.intersection(*(set(pins(backend)) for backend in BACKENDS))
    assert shared == set(pins("cpu"))
    assert all(len({pins(backend)[name] for backend in BACKENDS}) == 1 for name in shared)


def test_no_file_is_too_long_to_read():
    """Source files aim at 300 lines and have at most 400."""
    long = {
        str(path.relative_to(ROOT)): n
        for path in tracked_files()
        if path.suffix == ".py"
        and "tests" not in path.parts
        and (n := len(path.read_text().splitlines())) > 400
    }
    assert not long
