"""`common` serves both twins, so it imports no tensor framework; and neither twin imports the other's."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FRAMEWORKS = {"torch", "torchvision", "jax", "jaxlib", "flax", "optax", "orbax", "tensorflow"}
FORBIDDEN = {
    "common": FRAMEWORKS | {"torch_impl", "jax_impl"},
    "torch_impl": {"jax", "jaxlib", "flax", "optax", "orbax", "jax_impl"},
    "jax_impl": {"torch", "torchvision", "torch_impl"},
}


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
