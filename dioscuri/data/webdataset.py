"""Pictures in tar files in the layout of webdataset: members of an example share a name up to the first dot.

An example has a picture (`jpg`, `jpeg`, `png`, `webp`) and may have a class (`cls`, an integer as text). All
tar files, in the order of their names, form one set, whose pictures can be read in any order (`tar_files`).
"""

import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from dioscuri.data import image_files
from dioscuri.data.annotations import tar_annotations
from dioscuri.data.filters import admitted
from dioscuri.data.options import PATH_OPTIONS, Options, Split, matching_files
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.placement import Placement, decode_square
from dioscuri.data.reader import Reader
from dioscuri.data.tar_files import Example, Member, examples
from dioscuri.errors import UserError

Array = np.ndarray

PICTURES = ("jpg", "jpeg", "png", "webp")
LABEL = "cls"


def open_webdataset(options: Options, split: Split) -> PictureSet:
    """Open the tar files of a split: those in its folders, or that match its patterns, such as
    'shards/{00000..00099}.tar'; a `UserError` says why they cannot be used.

    Pictures are cropped to their largest central square or, with `data.random_crop`, to a random one.
    """
    data, option = options.data, PATH_OPTIONS[split]
    if data.channels not in (1, 3):
        raise UserError(f"[data] channels is {data.channels}; image files give 1 (grey) or 3 (RGB)")
    tars = matching_files(data, split, (".tar",), noun="tar file with pictures")
    folder = os.path.commonpath([tar.parent for tar in tars])
    every = [example for tar in tars for example in examples(tar)]
    chosen = [example for example in every if example.member(PICTURES)]
    notes = _notes(folder, every)
    if not chosen:
        remark = "".join(f"; {note}" for note in notes)
        raise UserError(
            f"[data] {option} '{getattr(data, option)}' holds no tar file with pictures "
            f"({', '.join(PICTURES)}){remark}"
        )
    H = data.target_res

    def content(index: int) -> io.BytesIO:
        return io.BytesIO(pictures[index].read())

    pictures, names = _members(chosen)
    size = Placement(names, content, H, "whole").size
    passing, failing = admitted(partial(tar_annotations, chosen), size, data, f"[data] {option}")
    if passing is not None:
        chosen = [chosen[i] for i in passing]
        pictures, names = _members(chosen)

    def decode(index: int) -> Array:
        if data.random_crop:
            return decode_at(index, None)
        return image_files.decode(content(index), H, data.channels, crop=True, fast=data.fast_jpeg)

    def decode_at(index: int, word: int | None) -> Array:
        return decode_square(content(index), H, data.channels, word, fast=data.fast_jpeg)

    pool = ThreadPoolExecutor(min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="decode")
    shape = (H, H, data.channels)
    reader = Reader(names, decode, shape, pool, skip_corrupt=data.skip_corrupt, decode_at=decode_at)
    return PictureSet(
        name=f"{Path(folder).name} ({split})",
        keys=tuple(example.key for example in chosen),
        read=reader,
        draw=reader.draw if data.random_crop else None,
        placed=Placement(names, content, H, "random" if data.random_crop else "centre"),
        annotate=partial(tar_annotations, chosen),
        labels=_labels(chosen),
        notes=(*tars.notes, *notes, *failing),
        unreadable=reader.unreadable,
    )


def _members(chosen: Sequence[Example]) -> tuple[list[Member], list[str]]:
    """The pictures of examples, and their names for messages."""
    pictures = [member for example in chosen if (member := example.member(PICTURES))]
    return pictures, [
        f"{member.tar}: {example.key}" for member, example in zip(pictures, chosen, strict=True)
    ]


def _notes(folder: str, every: Sequence[Example]) -> list[str]:
    """Notes about what is left out: examples without a picture, and pictures whose name up to the first dot
    is that of another example."""
    hidden = [(example, suffix) for example in every for suffix in _unread_pictures(example)]
    dotted = {id(example) for example, _ in hidden}
    n_without = sum(not example.member(PICTURES) and id(example) not in dotted for example in every)
    notes = []
    if n_without:
        plural = "" if n_without == 1 else "s"
        notes.append(f"{folder}: left out {n_without} example{plural} without a picture")
    if hidden:
        example, suffix = hidden[0]
        plural = "" if len(hidden) == 1 else "s"
        notes.append(
            f"{folder}: left out {len(hidden)} picture file{plural}, such as '{example.key}.{suffix}': the "
            "name of an example ends at its first dot"
        )
    return notes


def _unread_pictures(example: Example) -> list[str]:
    """Suffixes of an example's further pictures, which are not read."""
    chosen = next((suffix for suffix in PICTURES if suffix in example.members), None)
    return [s for s in example.members if s != chosen and s.rpartition(".")[2] in PICTURES]


def _labels(chosen: Sequence[Example]) -> Array | None:
    """Classes (N,), or None if no example has one; a `UserError` if only some have."""
    members = [example.member((LABEL,)) for example in chosen]
    if not any(members):
        return None
    labels = np.empty(len(chosen), np.int32)
    for index, (example, member) in enumerate(zip(chosen, members, strict=True)):
        text = member.read().decode("ascii", errors="replace").strip() if member else ""
        if not text.isdecimal() or len(text) > 9:
            raise UserError(
                f"example '{example.key}' has class {text[:20]!r}, others have integers: repair its tar file"
            )
        labels[index] = int(text)
    return labels
