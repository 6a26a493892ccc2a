"""TensorBoard's event files.

Only the messages are TensorBoard's: its writers, and those of PyTorch and tensorboardX, import PyTorch or
TensorFlow where they are installed, which would cost a JAX run seconds and 180 MB.
"""

import io
import math
import os
import socket
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog

from dioscuri.data.tfrecords import framed

Array = np.ndarray


class TensorBoard:
    """Event files under `<run directory>/train` and `<run directory>/val`."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Continue after `step`; TensorBoard hides events of later steps that an earlier process wrote."""
        self._files = {split: _open(folder / split, step + 1) for split in ("train", "val")}

    def scalars(self, split: str, step: int, values: Mapping[str, float]) -> None:
        """Numbers that are finite; the JSON lines record the others."""
        finite = {tag: value for tag, value in values.items() if math.isfinite(value)}
        self._write(split, step, [{"tag": tag, "simple_value": value} for tag, value in finite.items()])

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """Distributions of the finite values of arrays."""
        finite = {tag: array[np.isfinite(array)] for tag, array in values.items()}
        entries = [{"tag": tag, "histo": _histogram(array)} for tag, array in finite.items() if array.size]
        self._write(split, step, entries)

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        """Pictures uint8 (H, W, 1 or 3)."""
        self._write(split, step, [{"tag": tag, "image": _image(array)} for tag, array in pictures.items()])

    def close(self) -> None:
        """Close the files; nothing is buffered."""
        for file in self._files.values():
            file.close()

    def _write(self, split: str, step: int, entries: list[dict[str, Any]]) -> None:
        if entries:
            _append(self._files[split], step=step, summary={"value": entries})


def _open(folder: Path, first: int) -> BinaryIO:
    """A new event file, named as TensorBoard expects; earlier files count up to step `first` only."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"events.out.tfevents.{time.time_ns() // 1000:016d}.{socket.gethostname()}.{os.getpid()}"
    file = (folder / name).open("xb")
    _append(file, file_version="brain.Event:2")
    _append(file, step=first, session_log={"status": SessionLog.START})
    return file


def _append(file: BinaryIO, **fields: Any) -> None:
    file.write(framed(Event(wall_time=time.time(), **fields).SerializeToString()))
    file.flush()


@cache
def _edges() -> Array:
    """TensorBoard's bins: widths grow by a tenth from 1e-12, on both sides of 0."""
    positive = 1e-12 * 1.1 ** np.arange(774)
    return np.concatenate([-positive[::-1], [0], positive])


def _histogram(array: Array) -> dict[str, Any]:
    """Of values of any shape."""
    values = array.astype(np.float64).ravel()
    counts, edges = np.histogram(values, _edges())
    used = np.flatnonzero(counts)
    first, last = (used[0], used[-1] + 1) if used.size else (0, 1)
    return {
        "min": values.min(),
        "max": values.max(),
        "num": values.size,
        "sum": values.sum(),
        "sum_squares": (values**2).sum(),
        # Each bin is known by its upper edge, so an empty one tells where the first begins.
        "bucket_limit": edges[first : last + 1].tolist(),
        "bucket": [0.0, *counts[first:last].astype(float)],
    }


def _image(picture: Array) -> dict[str, Any]:
    height, width, channels = picture.shape
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if channels == 1 else picture).save(buffer, "PNG")
    return {
        "height": height,
        "width": width,
        "colorspace": channels,
        "encoded_image_string": buffer.getvalue(),
    }
