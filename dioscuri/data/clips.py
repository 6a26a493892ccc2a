"""Folders of recordings: each recording is a folder of frames, image files in the order of their names.

A clip is a window of `data.frames` frames. Evaluation uses adjacent windows, training windows at random
places (`windows.Windows`). Frames are decoded like the pictures of `custom`. A recording that cannot be used
stops the run; with `data.skip_corrupt` it is left out with a note.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dioscuri.data import image_files
from dioscuri.data.descriptors import describe
from dioscuri.data.folders import usable
from dioscuri.data.listing import folder_files, subfolders
from dioscuri.data.options import PATH_OPTIONS, Options, Split, data_path, picture_shape
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.reader import Reader
from dioscuri.data.windows import Windows
from dioscuri.errors import UserError

Array = np.ndarray


def open_frames(options: Options, split: Split) -> PictureSet:
    """Open the folder of a split; a `UserError` says why it cannot be used."""
    data, option = options.data, PATH_OPTIONS[split]
    H, _, C = picture_shape(data, describe(data.dataset_source))
    if C not in (1, 3):
        raise UserError(f"[data] channels is {C}; image files give 1 (grey) or 3 (RGB)")
    folder = data_path(data, split)
    recordings = subfolders(folder) if folder.is_dir() else []
    if not recordings:
        raise UserError(
            f"[data] {option} '{folder}' holds no folders; frames must lie in one folder per recording"
        )
    pool = ThreadPoolExecutor(min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="decode")
    frames = {path: folder_files(path, image_files.SUFFIXES) for path in recordings}
    refused = list(pool.map(lambda path: _refusal(frames[path], data.frames), recordings))
    reasons = {path: reason for path, reason in zip(recordings, refused, strict=True) if reason}
    good, notes = usable(recordings, reasons, folder, options, f"[data] {option}", "recording")
    files = [frame for path in good for frame in frames[path]]
    reader = Reader(
        [str(file) for file in files],
        lambda index: image_files.decode(files[index], H, C, fast=data.fast_jpeg),
        (H, H, C),
        pool,
        skip_corrupt=False,
    )
    lengths = [len(frames[path]) for path in good]
    return window_set(
        f"{folder.name} ({split})", [path.name for path in good], lengths, data.frames, reader, notes
    )


def window_set(
    name: str, names: list[str], lengths: list[int], length: int, reader: Reader, notes: tuple[str, ...]
) -> PictureSet:
    """Windows of recordings of `lengths` frames; `reader` numbers the frames of
    all recordings consecutively."""
    windows, firsts = Windows(lengths, length), np.cumsum([0, *lengths])

    def clips(places: tuple[Array, Array]) -> Array:
        recordings, starts = places
        indices = (firsts[recordings] + starts)[:, None] + np.arange(length)  # (B, T)
        frames = reader(indices.reshape(-1))
        return frames.reshape(*indices.shape, *frames.shape[1:])

    recordings, starts = windows.fixed(np.arange(len(windows)))
    return PictureSet(
        name=name,
        keys=tuple(f"{names[r]}_{start:06d}" for r, start in zip(recordings, starts, strict=True)),
        read=lambda indices: clips(windows.fixed(indices)),
        draw=lambda indices, words: clips(windows.random(indices, words)),
        notes=notes,
    )


def _refusal(frames: list[Path], length: int) -> str:
    """Why a recording cannot be used; empty if it can."""
    if len(frames) < length:
        return f"{len(frames)} frames are fewer than data.frames {length}"
    first: tuple[int, int] | None = None
    for path in frames:
        try:
            image_files.check(path)
            with image_files.open_image(path) as image:
                first, size = first or image.size, image.size
        except image_files.Refused as refused:
            return f"frame {path.name}: {refused}"
        if size != first:
            return f"frame {path.name} has {size[0]}x{size[1]} pixels, those before it {first[0]}x{first[1]}"
    return ""
