"""The public interface is typed: a user's program passes mypy's strictest checks."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_mypy_checks_a_users_program_strictly_and_sees_his_mistakes():
    """It runs before the tests; an `ignore` in `wrong.py` that hides no mistake is an error."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert "tests/typing" in options["files"]
    assert options["warn_unused_ignores"]
    client, wrong = ((ROOT / "tests" / "typing" / f"{name}.py").read_text() for name in ("client", "wrong"))
    assert "type: ignore" not in client
    assert re.findall(r"type: ignore\[([a-z-]+)\]", wrong) == ["arg-type", "call-arg"]


def test_an_ignored_type_error_has_its_code_and_a_reason():
    folders = (ROOT / name for name in ("dioscuri", "torch_impl", "jax_impl", "tests/support", "tools"))
    lines = [
        line for folder in folders for path in folder.rglob("*.py") for line in path.read_text().splitlines()
    ]
    ignored = [line for line in lines if "# type: ignore" in line]
    assert ignored
    assert not [line for line in ignored if not re.search(r"# type: ignore\[[a-z,-]+\] +# \w", line)]


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "dioscuri" / "py.typed").is_file()
