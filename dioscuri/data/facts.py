"""What data sets tell about pictures in JSON: the names of scores and sizes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

AESTHETIC = ("aesthetic", "AESTHETIC_SCORE", "aesthetic_score_laion_v2", "stability_metadata.aes_scorelv2")
WATERMARK = ("pwatermark", "watermark_score", "stability_metadata.p_watermarkdf")
NSFW = ("p_nsfwdf", "stability_metadata.p_nsfwdf", "punsafe")
SPAWNING = ("is_spawning", "stability_metadata.is_spawning")
GETTY = ("is_getty", "stability_metadata.is_getty")
SIDES = (("original_width",), ("original_height",))
"""Names of one fact in the data sets that open-muse reads; a dot leads into an object."""

_LARGEST = 1e30


def fact(facts: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The first of these facts that there is, else None."""
    return next(_values(facts, names), None)


def number(facts: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """The first of these facts that is a finite number, or a text of one, else None."""
    return next((read for value in _values(facts, names) if (read := _as_number(value)) is not None), None)


def _values(facts: Mapping[str, Any], names: Sequence[str]) -> Iterator[Any]:
    for name in names:
        value: Any = facts
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            yield value


def _as_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if abs(read) < _LARGEST else None


def original_size(facts: Mapping[str, Any]) -> tuple[float, float] | None:
    """Width and height before the data set was made, if both are told."""
    width, height = (number(facts, names) for names in SIDES)
    return (width, height) if width and height and min(width, height) >= 1 else None
