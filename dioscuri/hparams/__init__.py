"""Options of a run: `.cfg` files read without `eval` into typed, frozen, validated dataclasses.

`load` reads a file; `GivenOptions` also reads and writes the run's copy; `to_json` returns the values for
records.
"""

from dioscuri.hparams.archive import GivenOptions, to_json
from dioscuri.hparams.loading import load

__all__ = ["GivenOptions", "load", "to_json"]
