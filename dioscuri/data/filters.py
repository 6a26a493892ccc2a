"""Pictures that are left out for what their data set tells of them, by open-muse's rules.

A picture is left out if it fails a rule, or if the fact that a rule needs is missing. An original's size is
never missing: where it is not told, it is that of the file.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from dioscuri.data.annotations import Annotation
from dioscuri.data.facts import AESTHETIC, GETTY, NSFW, SPAWNING, WATERMARK, fact, number, original_size
from dioscuri.data.placement import Size
from dioscuri.errors import UserError
from dioscuri.hparams.picture_files import PictureFiles

LIMITS = (
    ("max_pwatermark", "watermark", WATERMARK, 1),
    ("min_aesthetic_score", "aesthetic score", AESTHETIC, -1),
    ("max_pnsfw", "NSFW score", NSFW, 1),
)
"""Options, what they limit, its names, and -1 for a lower limit."""
MARKS = {"require_marked_as_ok_by_spawning": SPAWNING, "require_marked_as_not_getty": GETTY}
"""Options, and the names of the mark that must be false."""


def filters(data: PictureFiles) -> bool:
    """Whether an option leaves pictures out."""
    limits = (data.max_pwatermark, data.min_aesthetic_score, data.max_pnsfw)
    marks = (data.min_size, data.require_marked_as_ok_by_spawning, data.require_marked_as_not_getty)
    return any(marks) or any(limit is not None for limit in limits)


def admitted(
    annotations: Callable[[], Sequence[Annotation]],
    size: Callable[[int], Size],
    data: PictureFiles,
    where: str,
) -> tuple[list[int] | None, list[str]]:
    """Indices of the pictures that pass, None if no rule is set, and a note that counts the others by reason.

    `size(index)` is that of a file. A `UserError` that begins with `where` if none passes.
    """
    if not filters(data):
        return None, []
    given = annotations()
    reasons = [_reason(annotation, index, size, data) for index, annotation in enumerate(given)]
    passing = [index for index, reason in enumerate(reasons) if not reason]
    counts = Counter(reason for reason in reasons if reason)
    if not counts:
        return passing, []
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    note = f"{len(given) - len(passing)} of {len(given)} pictures are left out: {listed}"
    if not passing:
        raise UserError(f"{where}: {note}; loosen these options")
    return passing, [note]


def _reason(annotation: Annotation, index: int, size: Callable[[int], Size], data: PictureFiles) -> str:
    """Why a picture is left out, '' if it is not."""
    facts = annotation.facts
    if data.min_size and min(original_size(facts) or size(index)) < data.min_size:
        return f"narrower or lower than {data.min_size} pixels (min_size)"
    for option, what, names, sign in LIMITS:
        limit, value = getattr(data, option), number(facts, names)
        if limit is not None and value is None:
            return f"without {what} ({option})"
        if limit is not None and value is not None and sign * value > sign * limit:
            return f"with {what} {'above' if sign > 0 else 'below'} {limit:g} ({option})"
    for option, mark in MARKS.items():
        marked = fact(facts, mark)
        if getattr(data, option) and marked is not False:
            return f"{'with' if marked is True else 'without'} {mark[0]} ({option})"
    return ""
