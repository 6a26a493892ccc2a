"""The public interface is typed: a user's program passes mypy's strictest checks."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRONG = "from dioscuri import torch as dio\n\ndio.load('x', weights='ema')\ndio.load(x=3)\n"


@pytest.mark.slow
def test_a_client_passes_mypy_strict_and_a_wrong_one_does_not(tmp_path):
    client, wrong = ROOT / "tests" / "typing" / "client.py", tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={ROOT / '.mypy_cache' / 'client'}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(client), str(wrong)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert not [line for line in errors if "client.py" in line]
    assert len(errors) == 2, done.stdout


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
