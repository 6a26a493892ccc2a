"""Flat folders of wav files: one channel, 16 bits per sample, all of `data.sample_rate`.

A sound is a window of `data.target_res` samples. Evaluation uses adjacent windows, training windows at random
places (`windows.Windows`). A file that cannot be used stops the run; with `data.skip_corrupt` it is left out
with a note.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dioscuri.data.folders import usable
from dioscuri.data.image_files import Refused
from dioscuri.data.listing import folder_files
from dioscuri.data.options import PATH_OPTIONS, Options, Split, data_path
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.samples import to_levels
from dioscuri.data.windows import Windows
from dioscuri.errors import UserError

if TYPE_CHECKING:
    from dioscuri.hparams.sections import Data

Array = np.ndarray

BYTES = 2
"""Bytes of a sample."""
_CACHED_SAMPLES = 2**29  # a set with no more samples stays in memory


def open_sounds(options: Options, split: Split) -> PictureSet:
    """Open the folder of a split; a `UserError` says why it cannot be used."""
    data, option = options.data, PATH_OPTIONS[split]
    folder = data_path(data, split)
    paths = folder_files(folder, (".wav",)) if folder.is_dir() else []
    if not paths:
        raise UserError(f"[data] {option} '{folder}' holds no .wav files; they must lie directly in it")
    lengths: dict[Path, int] = {}
    reasons: dict[Path, str] = {}
    for path in paths:
        try:
            lengths[path] = checked_length(path, data)
        except Refused as refused:
            reasons[path] = str(refused)
    _, notes = usable(paths, reasons, folder, options, f"[data] {option}", "wav file")
    return window_set(f"{folder.name} ({split})", lengths, data, notes)


def window_set(name: str, lengths: dict[Path, int], data: Data, notes: tuple[str, ...]) -> PictureSet:
    """Windows of files with the given numbers of samples."""
    sizes, paths = list(lengths.values()), list(lengths)
    windows = Windows(sizes, data.target_res)
    read = _reader(paths, sizes, data.target_res, keep=sum(sizes) <= _CACHED_SAMPLES)

    def levels(places: tuple[Array, Array]) -> Array:
        samples = [read(int(recording), int(start)) for recording, start in zip(*places, strict=True)]
        return to_levels(np.stack(samples)[..., None], data.sample_encoding)

    recordings, starts = windows.fixed(np.arange(len(windows)))
    return PictureSet(
        name=name,
        keys=tuple(f"{paths[r].stem}_{start:09d}" for r, start in zip(recordings, starts, strict=True)),
        read=lambda indices: levels(windows.fixed(indices)),
        draw=lambda indices, words: levels(windows.random(indices, words)),
        notes=notes,
    )


def checked_length(path: Path, data: Data) -> int:
    """Number of samples in a file; `Refused` if it is not a wav file, damaged, too short, or at odds with
    `[data]`."""
    try:
        with path.open("rb") as stream, wave.open(stream) as sound:
            if sound.getnchannels() != 1:
                raise Refused(f"{sound.getnchannels()} channels, not one; mix them down")
            if sound.getsampwidth() != BYTES:
                raise Refused(f"{8 * sound.getsampwidth()} bits a sample, not 16; convert it")
            if sound.getframerate() != data.sample_rate:
                raise Refused(
                    f"{sound.getframerate()} samples a second, not {data.sample_rate}; resample it, or set "
                    "data.sample_rate"
                )
            n: int = sound.getnframes()
            if n < data.target_res:
                raise Refused(f"{n} samples are fewer than data.target_res {data.target_res}")
            sound.setpos(n - 1)
            if len(sound.readframes(1)) != BYTES:
                raise Refused(f"truncated: its header gives {n} samples")
            return n
    except Refused:
        raise
    except Exception as error:  # damaged chunks raise all kinds of exceptions
        raise Refused(f"not a wav file of plain samples ({str(error) or 'it ends too early'})") from error


def read_samples(path: Path, start: int, n: int) -> Array:
    """Samples int16 (n,) from `start` on; a `UserError` if the file has changed since it was checked."""
    try:
        with path.open("rb") as stream, wave.open(stream) as sound:
            sound.setpos(start)
            samples = np.frombuffer(sound.readframes(n), "<i2")
    except Exception as error:  # as above
        raise UserError(f"{path}: can no longer be read ({error})") from error
    if len(samples) != n:
        raise UserError(f"{path}: ends before sample {start + n}, but was longer when the run began")
    return samples


def _reader(paths: list[Path], lengths: list[int], length: int, *, keep: bool) -> Callable[[int, int], Array]:
    """Reads samples int16 (length,) of a recording from a start on; `keep`: recordings stay in memory."""
    cache: dict[int, Array] = {}

    def read(recording: int, start: int) -> Array:
        if not keep:
            return read_samples(paths[recording], start, length)
        if recording not in cache:
            cache[recording] = read_samples(paths[recording], 0, lengths[recording])
        return cache[recording][start : start + length]

    return read
