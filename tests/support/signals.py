"""Sounds and clips synthesised by formula, in files."""

import wave

import numpy as np
from PIL import Image

RATE = 8000


def tone(n, seed=0, rate=RATE):
    """Samples int16 (n,): two decaying partials of a random pitch."""
    rng = np.random.default_rng(seed)
    time = np.arange(n) / rate
    pitch = rng.uniform(300, 900)
    wave = np.sin(2 * np.pi * pitch * time) + 0.4 * np.sin(4 * np.pi * pitch * time + rng.uniform(0, 6))
    return np.round(20000 / 1.4 * wave * np.exp(-3 * time)).astype(np.int16)


def write_wav(path, samples, *, rate=RATE, width=2, channels=1):
    """A wav file of samples (n,), or (n, channels), in `width` bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(samples.astype({1: "<u1", 2: "<i2", 4: "<i4"}[width]).tobytes())
    return path


def write_sounds(folder, n_files=3, n_samples=200):
    """Write a folder of tones; return the overrides that make it the data of all splits."""
    for i in range(n_files):
        write_wav(folder / f"tone-{i}.wav", tone(n_samples + 7 * i, i))
    return paths(folder)


def write_clip(folder, n=6, side=8, seed=0):
    """Frames of a disc that moves on a ramp of colours, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    (row, column), (down, right) = rng.uniform(0.2, 0.8, 2), rng.uniform(-0.08, 0.08, 2)
    for t in range(n):
        disc = (y - row - down * t) ** 2 + (x - column - right * t) ** 2 < 0.05
        frame = np.stack([255 * disc, 200 * x, 200 * y], -1).astype(np.uint8)
        Image.fromarray(frame).save(folder / f"{t:03d}.png")
    return folder


def write_clips(folder, n_clips=3, n_frames=6, side=8):
    """Write a folder of clips; return the overrides that make it the data of all splits."""
    for i in range(n_clips):
        write_clip(folder / f"clip-{i}", n_frames, side, i)
    return paths(folder)


def paths(folder):
    return tuple(
        f"data.{name}='{folder}'" for name in ("train_data_path", "val_data_path", "synthesis_data_path")
    )
