"""Examples as files: pictures as PNG, sounds as wav, clips as GIF."""

import wave
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.data.samples import to_samples
from dioscuri.data.sounds import BYTES
from dioscuri.files import replacing
from dioscuri.hparams.sections import Data
from dioscuri.outputs.pictures import enlarge, save_picture

Array = np.ndarray

MILLISECONDS = 100  # per frame of a clip
STEP_MILLISECONDS = 400
ANIMATED = {".gif": "GIF", ".png": "PNG", ".webp": "WEBP"}
"""Kinds of animated pictures by suffix."""


def save_example(folder: Path, stem: str, example: Array, data: Data) -> Path:
    """Write a picture (H, W, C), a sound (L, 1) or a clip (T, H, W, C) under the suffix of its kind."""
    if example.ndim == 2:
        return _save_sound(folder / f"{stem}.wav", example, data)
    if example.ndim == 4:
        return _save_animation(folder / f"{stem}.gif", list(example), MILLISECONDS)
    return save_picture(folder, stem, example)


def save_film(path: Path, frames: Array) -> None:
    """Write frames (T, H, W, C) as a GIF that plays forth and back, enlarged so that it can be seen. Sounds,
    clips, and frames of other than 1 or 3 channels make none."""
    if frames.ndim == 4 and frames.shape[-1] in (1, 3):
        there_and_back = [*frames, *frames[-2:0:-1]]
        _save_animation(path, [enlarge(frame) for frame in there_and_back], MILLISECONDS)


def save_frames(path: Path, frames: Sequence[Array], milliseconds: int = STEP_MILLISECONDS) -> Path:
    """Write pictures (H, W, 1 or 3) as an endless animation, in which the last one stays longer; the suffix
    says of which kind."""
    return _save_animation(path, [*frames, *[frames[-1]] * 3], milliseconds)


def _save_sound(path: Path, sound: Array, data: Data) -> Path:
    samples = to_samples(sound[:, 0], data.sample_encoding).astype("<i2")
    with replacing(path) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(BYTES)
        file.setframerate(data.sample_rate)
        file.writeframes(samples.tobytes())
    return path


def _save_animation(path: Path, frames: Sequence[Array], milliseconds: int) -> Path:
    images = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
    with replacing(path) as temporary:
        images[0].save(
            temporary,
            format=ANIMATED[path.suffix],
            save_all=True,
            append_images=images[1:],
            duration=milliseconds,
            loop=0,
            lossless=True,  # WebP; the others always are
        )
    return path
