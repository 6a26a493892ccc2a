"""`dioscuri` serves both twins, so it imports no tensor framework; neither twin imports the other's."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax", "orbax", "tensorflow"}
FORBIDDEN = {
    "dioscuri": FRAMEWORKS | {"torch_impl", "jax_impl"},
    "torch_impl": {"jax", "jaxlib", "flax", "optax", "orbax", "jax_impl"},
    "jax_impl": {"torch", "torchvision", "torch_impl"},
}

FLOORS = (
    ("errors", "environment"),
    ("__init__",),
    ("files", "pickles", "registry", "places", "versions", "job"),
    ("hparams",),
    ("schedules", "download", "plans", "engine"),
    ("data", "metrics", "twins", "compression"),
    ("checkpoint",),
    ("hub", "context"),
    ("contract",),
    ("restore", "inputs", "outputs"),
    ("evaluation", "face"),
    ("families",),
    ("twins' tensor code",),
    ("importers",),
    ("run",),
    ("library",),
    ("demo",),
    ("cli", "torch", "jax"),
    ("__main__",),
)
"""Subpackages of `dioscuri`, from the lowest up, and the twins: each imports only
from itself and those below."""
SCRIPTS = ("train", "synthesize")
"""Files of a twin's folder that are command lines."""


def imported(source: str) -> set[str]:
    """Top-level names of every package that the source imports, at module level or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                names.add(node.args[0].value.partition(".")[0])
    return names


@pytest.mark.parametrize("package", FORBIDDEN)
def test_package_imports_nothing_forbidden(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {
        str(file.relative_to(ROOT)): bad
        for file in files
        if (bad := imported(file.read_text()) & FORBIDDEN[package])
    }
    assert not found


def test_every_way_of_importing_is_seen():
    source = (
        "import a.b\ndef f():\n    from c.d import e\n    importlib.import_module('g.h')\nfrom . import i"
    )
    assert imported(source) == {"a", "c", "g"}


@pytest.mark.parametrize("twin", ["torch", "jax"])
def test_a_process_loads_the_libraries_of_its_own_twin_alone(twin):
    """Nor packages for charts and metrics, which would delay every run."""
    modules = ("sys", f"{twin}_impl.engine", "dioscuri.run.train", "dioscuri.families.sundae.logic")
    code = f"import {', '.join(modules)}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert twin in loaded
    assert not loaded & (FORBIDDEN[f"{twin}_impl"] | {"matplotlib", "sklearn", "skimage"})


def room(module: str) -> str:
    """The subpackage of a module, or "" if it is neither in `dioscuri` nor in a twin."""
    package, _, inside = module.partition(".")
    if package in ("torch_impl", "jax_impl"):
        return "cli" if inside in SCRIPTS else "twins' tensor code"
    return inside.partition(".")[0] or "__init__" if package == "dioscuri" else ""


def modules_imported(source: str) -> set[str]:
    """Full names of a source's imports from packages; `from dioscuri import x` may mean a module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            here = ROOT / node.module.replace(".", "/")
            names |= {f"{node.module}.{a.name}" for a in node.names if (here / f"{a.name}.py").is_file()}
            names.add(node.module)
    return names


def test_arrows_run_down():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = []
    for file in sorted(path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for other in modules_imported(file.read_text()):
            above, below = room(module), room(other)
            if below and above != below and floor[below] >= floor[above]:
                upward.append(f"{module} imports {other}")
    assert not upward


# Import names of distributions whose names differ.
MODULES = {
    "pillow": "PIL",
    "pyyaml": "yaml",
    "huggingface-hub": "huggingface_hub",
    "ml-dtypes": "ml_dtypes",
    "scikit-learn": "sklearn",
}
# The pictures inside scikit-image are read as files; JAX bounds its cache with filelock.
NOT_IMPORTED = {"scikit-image", "filelock"}
TOOLS = {"test", "docs"}  # extras for those who change the project


def test_the_package_declares_what_the_program_imports_and_no_more():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lists = [project["dependencies"], *(extras[name] for name in extras if name not in TOOLS)]
    requirement = re.compile(r"([\w-]+)(?:\[\w+\])?(>=[\d.]+,<[\d.]+)")
    bounds = dict(requirement.fullmatch(line).groups() for lines in lists for line in lines)
    sources = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    used = set().union(*(imported(path.read_text()) for path in sources))
    used -= set(sys.stdlib_module_names) | set(FORBIDDEN)
    assert used == {MODULES.get(name, name) for name in set(bounds) - NOT_IMPORTED}


def test_nobody_asks_whether_a_family_has_a_certain_name():
    """All differences between families are in `dioscuri.contract.Family`."""
    question = re.compile(r"""family\s*(==|!=|in|not in)\s*[("'\[{]""")
    files = [path for package in FORBIDDEN for path in (ROOT / package).rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if question.search(path.read_text())] == []
