"""Compress the test pictures of a run by its model, PNG, WebP, gzip and xz, and print a table in Markdown.

    python tools/compression_table.py RUN [--twin torch|jax] [--pictures N] [--batch-size N] [--seed N]

Every row is checked to give the pictures back. A sheet is all pictures in one file, side by side, without
which formats for single pictures spend most bytes on headers.
"""

import argparse
import gzip
import io
import lzma
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np
from einops import rearrange
from PIL import Image

from dioscuri.data.sources import open_datasets
from dioscuri.errors import run_command

MAX_HEIGHT = 16384
Array = np.ndarray
Codec = tuple[Callable[[Array], Any], Callable[[Any], Array]]


def main(words: list[str]) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    parser.add_argument("--twin", choices=["torch", "jax"], default="torch")
    parser.add_argument("--pictures", type=int, default=10**9)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(words)
    model = import_module(f"dioscuri.{chosen.twin}").load(chosen.run)
    test = open_datasets(model.hparams).test
    pictures = test.gather(np.arange(min(len(test), chosen.pictures)))
    print(f"{model}: {len(pictures)} pictures of {test.name}, seed {chosen.seed}")
    file = io.BytesIO()
    options = {"seed": chosen.seed, "batch_size": chosen.batch_size, "check": False}
    begin = time.perf_counter()
    model.compress_into(io.BytesIO(), [pictures], **options)
    print(f"a first call, which may compile: {time.perf_counter() - begin:.1f} s in")
    begin = time.perf_counter()
    sizes = model.compress_into(file, [pictures], **options)
    middle = time.perf_counter()
    same = (model.decompress(file.getvalue()) == pictures).all()
    end = time.perf_counter()
    assert same, "the pictures differ"
    print(f"the {len(pictures)} pictures came back")
    bound = model.bound(pictures, samples=4).bits_per_dim
    net = 8 * (sizes["bytes"] - sizes["overhead"]) - sizes["initial"]
    print(
        f"-ELBO {bound:.4f} bits/dim; net {net / pictures.size:.4f}: {net / pictures.size / bound:.4f} of it,"
        f" borrowed {sizes['initial']} bits; header and trailer {sizes['overhead']} bytes"
    )
    print("| codec | bytes | bits/dim | pictures/s in | pictures/s out |\n|---|---|---|---|---|")
    row(f"Dioscuri, {chosen.twin}", sizes["bytes"], pictures, middle - begin, end - middle)
    for name, codec in codecs(pictures.shape).items():
        compare(name, codec, pictures)


def codecs(shape: tuple[int, ...]) -> dict[str, Codec]:
    """How pictures of this shape become a list of byte strings and back, by name."""
    _, H, W, C = shape
    table: dict[str, Codec] = {}
    for name, kind in (("PNG", "PNG"), ("WebP, lossless", "WEBP")):
        table[name] = (
            lambda p, kind=kind: [encoded(picture, kind) for picture in p],
            lambda files: np.stack([decoded(file, C) for file in files]),
        )
        table[f"{name}, a sheet"] = (
            lambda p, kind=kind: [encoded(sheet(p), kind)],
            lambda files: rearrange(decoded(files[0], C), "(n h) (k w) c -> (k n) h w c", h=H, w=W),
        )
    for name, module in (("gzip -9, all", gzip), ("xz -9e, all", lzma)):
        options: dict[str, int] = (
            {"compresslevel": 9} if module is gzip else {"preset": 9 | lzma.PRESET_EXTREME}
        )
        table[name] = (
            lambda p, module=module, options=options: [module.compress(p.tobytes(), **options)],
            lambda files, module=module: np.frombuffer(module.decompress(files[0]), np.uint8).reshape(shape),
        )
    return table


def sheet(pictures: Array) -> Array:
    """All pictures (N, H, W, C) in as few columns as keep WebP's largest height."""
    N, H, _, _ = pictures.shape
    columns = next(k for k in range(1, N + 1) if N % k == 0 and N // k * H < MAX_HEIGHT)
    return rearrange(pictures, "(k n) h w c -> (n h) (k w) c", k=columns)


def encoded(picture: Array, kind: str) -> bytes:
    """A picture file in memory."""
    file = io.BytesIO()
    options = {"lossless": True, "quality": 100, "method": 6} if kind == "WEBP" else {"optimize": True}
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, kind, **options)
    return file.getvalue()


def decoded(file: bytes, channels: int) -> Array:
    """The picture (H, W, channels) of a file."""
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("L" if channels == 1 else "RGB")).reshape(
            image.height, image.width, channels
        )


def compare(name: str, codec: Codec, pictures: Array) -> None:
    """A row of the table."""
    begin = time.perf_counter()
    files = codec[0](pictures)
    middle = time.perf_counter()
    assert (codec[1](files) == pictures).all(), f"{name}: the pictures differ"
    row(name, sum(map(len, files)), pictures, middle - begin, time.perf_counter() - middle)


def row(name: str, size: int, pictures: Array, seconds_in: float, seconds_out: float) -> None:
    """Print it."""
    n = len(pictures)
    rates = f"{n / seconds_in:,.0f} | {n / seconds_out:,.0f}"
    print(f"| {name} | {size:,} | {8 * size / pictures.size:.3f} | {rates} |", flush=True)


if __name__ == "__main__":
    run_command(main)
