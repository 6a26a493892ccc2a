"""Options of a run: `.cfg` files read without `eval` into typed, frozen, validated dataclasses.

`load` reads a file; `resolve` also reads and writes the run's copy; `to_json` returns the values for records.
"""

from dioscuri.hparams.archive import resolve, to_json
from dioscuri.hparams.loading import load

__all__ = ["load", "resolve", "to_json"]
