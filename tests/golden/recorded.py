"""Recorded cases of the original programs: their location, content and tolerances.

Cases lie under `cases/` and in the folders of the variable GOLDEN_DIRS, separated by colons. Everything about
a case follows from its `case.json`: `family` and `runner` choose the tests, `settings` and the other entries
hold the numbers. Older cases state some numbers only in sentences; `Case.said` reads them.
"""

import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOTS = [
    Path(__file__).parent / "cases",
    *map(Path, filter(None, os.environ.get("GOLDEN_DIRS", "").split(":"))),
]
Kind = tuple[str, str]
"""(family, runner)"""


class Case:
    """A recorded case: its description, its input and output arrays, and the tolerances."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.settings: dict[str, Any] = self.about.get("settings", {})

    @property
    def kind(self) -> Kind:
        """Family and runner, which choose the tests."""
        return self.about.get("family", ""), self.about.get("runner", "")

    @cached_property
    def inputs(self) -> dict[str, np.ndarray]:
        """`inputs.npz`."""
        return dict(np.load(self.folder / "inputs.npz"))

    @cached_property
    def outputs(self) -> dict[str, np.ndarray]:
        """`outputs.npz`."""
        return dict(np.load(self.folder / "outputs.npz"))

    @cached_property
    def weights(self) -> dict[str, np.ndarray]:
        """Weights under the original names; some are stored in float16."""
        stored = load_file(self.folder / self.about.get("weights", {}).get("file", "weights.safetensors"))
        return {
            name: array.astype(np.float32) if array.dtype == np.float16 else array
            for name, array in stored.items()
        }

    def of_prefix(self, prefix: str) -> dict[str, np.ndarray]:
        """Outputs whose name begins with a prefix, without the prefix; at least one."""
        chosen = {
            name.removeprefix(prefix): array
            for name, array in self.outputs.items()
            if name.startswith(prefix)
        }
        assert chosen, f"{self.folder.name} has no outputs '{prefix}...'"
        return chosen

    def said(self, pattern: str) -> tuple[str, ...]:
        """Groups of a regular expression in a sentence of `case.json`; fails without a match."""
        for text in _sentences(self.about):
            if match := re.search(pattern, text):
                return match.groups()
        pytest.fail(f"{self.folder / 'case.json'} does not say {pattern}")

    def number(self, pattern: str) -> float:
        """The number that a sentence of `case.json` states."""
        return float(self.said(pattern)[0])

    def limit(self, expected: np.ndarray, tolerance: str) -> float:
        """Largest allowed difference of an array's entries."""
        tol = self.about["tol"][tolerance]
        return max(tol["of_max"] * np.abs(expected).max(initial=0), tol.get("abs_floor", 0))

    def close(self, actual: Any, name: str, expected: Any = None, tolerance: str = "outputs") -> None:
        """Assert that an array is the output `name`, or `expected`, within the case's tolerance.

        Entries that are infinite, or that the case calls huge, must be equal; they are ignored in the largest
        value.
        """
        expected = np.asarray(self.outputs[name] if expected is None else expected)
        actual = np.asarray(actual)
        assert actual.shape == expected.shape, name
        huge = self._huge(expected)
        np.testing.assert_array_equal(actual[huge], expected[huge], err_msg=name)
        rest, limit = expected[~huge], self.limit(expected[~huge], tolerance)
        off = np.abs(actual[~huge] - rest)
        share = self.about["tol"][tolerance].get("share_of_entries", 1)
        assert (off <= limit).sum() >= share * off.size, (name, off.max(initial=0), limit)

    def _huge(self, expected: np.ndarray) -> np.ndarray:
        if "infinities" in self.about["tol"]:
            return np.isinf(expected)
        return np.abs(expected) > float(self.said(r"entries above (\S+) must be equal")[0])

    def close_norm(self, actual: np.ndarray, expected: float, name: str) -> None:
        """Assert that a gradient has a recorded norm."""
        tol = self.about["tol"]["gradients"]
        floor = tol["abs_floor"] * np.sqrt(actual.size)
        assert np.linalg.norm(actual) == pytest.approx(expected, rel=tol["of_max"], abs=floor), name


def cases(*kinds: Kind, output: str | None = None) -> list[Any]:
    """One pytest parameter per case, with its folder's name as id: cases of some
    or all kinds, with an output."""
    selected = [Case(path.parent) for root in ROOTS for path in sorted(root.rglob("case.json"))]
    if kinds:
        selected = [case for case in selected if case.kind in kinds]
    if output:
        selected = [case for case in selected if output in np.load(case.folder / "outputs.npz").files]
    assert selected, f"no cases of {kinds} with {output}"
    return [pytest.param(case, id=case.folder.name) for case in selected]


def tagged_cases(pattern: str, *kinds: Kind) -> list[Any]:
    """A parameter (case, tag) for every output whose full name matches the pattern; the group is the tag."""
    selected = [
        pytest.param(case, tag, id=f"{parameter.id}-{tag}")
        for parameter in cases(*kinds)
        for case in parameter.values
        for name in np.load(case.folder / "outputs.npz").files
        for tag in re.findall(f"^{pattern}$", name)
    ]
    assert selected, f"no cases of {kinds} with {pattern}"
    return selected


def padded(array: np.ndarray, before: int, length: int) -> np.ndarray:
    """Rows at their places among `length`, zeros elsewhere; rows beyond the last place are dropped."""
    rows = np.zeros((length, *array.shape[1:]), array.dtype)
    rows[before : before + len(array)] = array[: length - before]
    return rows


def repeats(rows: int, parts: int, device_count: int) -> int:
    """How often to repeat each row so that every device gets equally many; means over rows do not change."""
    return int(np.lcm(rows, parts * device_count)) // rows


def _sentences(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _sentences(item)]
