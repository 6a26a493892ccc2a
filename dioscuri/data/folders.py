"""Image files, decoded when they are read: folders (celebA, celebAHQ, ffhq, custom) and patterns (glob).

Every file with an image suffix is a picture, in the order of the names (`listing`); other files are left out
with a note. If a folder holds no pictures, those in its subfolders, at any depth, are read, and the outermost
subfolder names a picture's class: `cat/1.png`, `dog/puppies/2.png`. Classes are numbered in the order of
their names; empty folders count. All pictures are checked when the folder is opened (`image_files.check`).
Unreadable ones are named and counted; they stop the run or, with `data.skip_corrupt`, are left out with a
note. A picture whose damage shows only when it is decoded also stops the run; with `skip_corrupt` the next
readable one replaces it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from dioscuri.data import image_files
from dioscuri.data.annotations import LISTED, SIDECARS, folder_annotations
from dioscuri.data.crops import decode_cropped
from dioscuri.data.descriptors import describe
from dioscuri.data.filters import admitted
from dioscuri.data.listing import Files, find_files, folder_files, subfolders
from dioscuri.data.options import PATH_OPTIONS, Options, Split, data_path, matching_files, picture_shape
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.placement import How, Placement, decode_square
from dioscuri.data.reader import Reader
from dioscuri.errors import UserError

Decode = Callable[[Path, int, int, int | None], np.ndarray]
"""From a file, a side, a number of channels and a random word for a place, or None, to a picture; raises
`Refused` if it is not one."""

_NAMED = 5  # files that a message lists
_PER_TASK = 64  # pictures that a thread checks in a row: a task takes as long as a check


def open_folder(options: Options, split: Split) -> PictureSet:
    """Open the folder of a split; a `UserError` says why it cannot be used."""
    _check_channels(options)
    folder = data_path(options.data, split)
    if not folder.is_dir():
        raise UserError(f"[data] {PATH_OPTIONS[split]} '{folder}' is not a folder of pictures")
    files = matching_files(options.data, split, image_files.SUFFIXES, noun="pictures", class_folders=True)
    others = _others(folder, files)
    opened = _open(options, f"[data] {PATH_OPTIONS[split]}", folder, files, others)
    return replace(opened, name=f"{folder.name} ({split})")


def open_glob(options: Options, split: Split) -> PictureSet:
    """Open the image files that match a split's patterns, such as 'photos/**/*.jpg', or lie in its folders.

    Pictures are cropped to their largest central square (`crops`). A `UserError` says why they cannot be
    used.
    """
    _check_channels(options)
    files = matching_files(options.data, split, image_files.SUFFIXES, noun="pictures", class_folders=True)
    folder = Path(os.path.commonpath([path.parent for path in files]))
    opened = _open(options, f"[data] {PATH_OPTIONS[split]}", folder, files, [])
    return replace(opened, name=f"{folder.name} ({split})")


def open_pictures(options: Options, text: str, option: str) -> PictureSet:
    """Open image files of a run's user: a picture, a folder or a pattern, which `option` names.

    They are brought to the run's size as its source does. A `UserError` says why they cannot be used.
    """
    data, source = options.data, describe(options.data.dataset_source)
    if source.rank != 2 or source.tokens:
        raise UserError(
            f"{option} is for models of pictures, but '{data.dataset_source}' has none: leave it out"
        )
    _check_channels(options)
    files = find_files(text, image_files.SUFFIXES, option, noun="pictures", class_folders=True)
    folder = Path(os.path.commonpath([path.parent for path in files]))
    others = _others(folder, files) if Path(text).is_dir() else []
    opened = _open(options, option, folder, files, others, filtered=False)
    return replace(opened, binarise_on_read=source.likelihood == "bernoulli")


def _check_channels(options: Options) -> None:
    C = picture_shape(options.data, describe(options.data.dataset_source))[2]
    if C not in (1, 3):
        raise UserError(
            f"[data] channels is {C}; image files give 1 (grey) or 3 (RGB), other pictures come as 'npy'"
        )


def _open(
    options: Options, option: str, folder: Path, files: Files, notes: list[str], *, filtered: bool = True
) -> PictureSet:
    """The pictures in a folder; unusable ones raise a `UserError` or are left out, with `filtered` also those
    that fail the run's rules."""
    data, paths = options.data, files.paths
    H, _, C = picture_shape(data, describe(data.dataset_source))
    pool = ThreadPoolExecutor(min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="decode")
    reasons = refusals(paths, pool)
    good, left_out = usable(paths, reasons, folder, options, option, "picture")
    if filtered:
        placement = Placement([str(path) for path in good], good.__getitem__, H, "whole")
        passing, failing = admitted(partial(folder_annotations, good, folder), placement.size, data, option)
        good, notes = good if passing is None else [good[i] for i in passing], [*notes, *failing]
    names = [str(path) for path in good]
    decode = _decoder(options)
    reader = Reader(
        names,
        lambda index: decode(good[index], H, C, None),
        (H, H, C),
        pool,
        skip_corrupt=data.skip_corrupt,
        decode_at=lambda index, word: decode(good[index], H, C, word),
    )
    labels = _labels(files, good)
    return PictureSet(
        name=folder.name,
        keys=tuple(str(path.relative_to(folder)) for path in good),
        read=reader,
        draw=reader.draw if data.random_crop else None,
        placed=Placement(names, good.__getitem__, H, _how(options)),
        labels=labels,
        classes=() if labels is None else files.class_names,
        annotate=partial(folder_annotations, good, folder),
        notes=(*files.notes, *notes, *left_out),
        unreadable=reader.unreadable,
    )


def _decoder(options: Options) -> Decode:
    data = options.data
    if data.random_crop:
        return partial(decode_square, fast=data.fast_jpeg)
    if data.dataset_source == "glob":
        return lambda path, side, channels, _: decode_cropped(path, side, channels, legacy=data.legacy_crop)
    return lambda path, side, channels, _: image_files.decode(path, side, channels, fast=data.fast_jpeg)


def _how(options: Options) -> How:
    if options.data.random_crop:
        return "random"
    return "centre" if options.data.dataset_source == "glob" else "whole"


def _labels(files: Files, good: Sequence[Path]) -> np.ndarray | None:
    """Class numbers (N,); None unless every picture lies in a class folder."""
    if not all(files.classes):
        return None
    numbers = {name: number for number, name in enumerate(files.class_names)}
    class_of = dict(zip(files.paths, files.classes, strict=True))
    return np.array([numbers[class_of[path]] for path in good], np.int32)


def usable(
    paths: Sequence[Path],
    reasons: Mapping[Path, str],
    folder: Path,
    options: Options,
    option: str,
    noun: str,
) -> tuple[list[Path], tuple[str, ...]]:
    """The paths of an option's folder without the refused ones (`reasons`), and notes about those left out.

    A `UserError` names the refused ones; with `data.skip_corrupt`, only if no others remain.
    """
    data = options.data
    notes: tuple[str, ...] = ()
    if reasons:
        named = _count([f"{path.relative_to(folder)}: {reason}" for path, reason in reasons.items()], noun)
        if not data.skip_corrupt:
            raise UserError(
                f"{option} '{folder}': cannot use {named} out of {len(paths)}; repair or remove them, "
                "or set data.skip_corrupt=True"
            )
        notes = (f"{folder}: left out {named} out of {len(paths)}",)
    good = [path for path in paths if path not in reasons]
    if not good:
        raise UserError(f"{option} '{folder}': none of its {len(paths)} {noun}s can be used")
    return good, notes


def _others(folder: Path, files: Files) -> list[str]:
    """Notes about files and folders that are not read, apart from captions and other facts."""
    others = [path for path in folder_files(folder) if path.suffix.lower() not in image_files.SUFFIXES]
    stems = {path.stem for path in files}
    names = [p.name for p in others if p.name != LISTED and not (p.suffix in SIDECARS and p.stem in stems)]
    notes = [f"{folder}: left out {_count(names, 'file')} without an image suffix"] if names else []
    inside = [] if any(files.classes) else subfolders(folder)
    if folders := [path.name for path in inside if folder_files(path, image_files.SUFFIXES)]:
        notes.append(
            f"{folder}: left out {_count(folders, 'folder')}: the pictures next to them are used instead"
        )
    return notes


def _count(items: Sequence[str], noun: str) -> str:
    """E.g. `3 pictures (a.png: truncated, b.png: not an image, c.png: not an image)`."""
    shown = ", ".join(items[:_NAMED]) + (f" and {len(items) - _NAMED} more" if len(items) > _NAMED else "")
    return f"{len(items)} {noun}{'' if len(items) == 1 else 's'} ({shown})"


def refusals(paths: Sequence[Path], pool: ThreadPoolExecutor) -> dict[Path, str]:
    """The pictures that cannot be used, and why."""
    some = (paths[first : first + _PER_TASK] for first in range(0, len(paths), _PER_TASK))
    reasons = chain.from_iterable(pool.map(lambda paths: [refusal(path) for path in paths], some))
    return {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}


def refusal(path: Path) -> str:
    """Why a picture cannot be used; empty if it can."""
    try:
        image_files.check(path)
    except image_files.Refused as refused:
        return str(refused)
    return ""
