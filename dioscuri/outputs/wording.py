"""The noun for a run's examples in reports."""

from typing import Any

from dioscuri.data.descriptors import describe

_NOUNS = {1: "sounds", 2: "pictures", 3: "clips"}


def noun(hparams: Any) -> str:
    """'pictures', 'sounds', 'clips' or 'texts', according to `data.dataset_source`."""
    source = hparams.data.dataset_source
    return "texts" if source == "text" else _NOUNS[describe(source).rank]
