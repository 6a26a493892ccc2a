"""Options of a run: `.cfg` files read without `eval` into typed, frozen, validated dataclasses.

`load` reads a file, `resolve` also keeps and obeys the run's own copy, `to_json` gives the values for a
record.
"""

from dioscuri.hparams.archive import resolve, to_json
from dioscuri.hparams.loading import load

__all__ = ["load", "resolve", "to_json"]
