"""Every recorded case is tested, wherever it lies; a case of an unknown kind
fails instead of being skipped."""

from importlib import import_module
from pathlib import Path

import pytest

from tests.golden import host_cases
from tests.golden.recorded import cases

MODULES = sorted(path.stem for path in Path(__file__).parent.glob("test_*.py"))


def kinds_with_a_test():
    """`KINDS` of the modules in this folder."""
    modules = [import_module(f"tests.golden.{name}") for name in MODULES]
    return {kind for module in (host_cases, *modules) for kind in getattr(module, "KINDS", ())}


@pytest.mark.parametrize("case", cases())
def test_case_is_of_a_tested_kind(case):
    assert case.kind in kinds_with_a_test(), f"no test of {case.kind}"


@pytest.mark.parametrize("case", cases(*host_cases.KINDS))
def test_host(case, tmp_path):
    """Cases that need no tensor code."""
    host_cases.KINDS[case.kind](case.folder, tmp_path)
