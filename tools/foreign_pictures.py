"""Write folders of known and foreign pictures for `dioscuri evaluate --ood`.

    python tools/foreign_pictures.py CFG OUT [--pictures N] [section.option=value ...]

The known ones are the test pictures of a configuration, those that choose k its validation pictures. The
foreign ones are test pictures that are turned by 90 degrees, inverted, blurred, or replaced by one of their
own colours, and pictures of another kind: photographs for grey pictures, enlarged digits for coloured ones.
"""

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np
from PIL import Image, ImageFilter

from dioscuri import hparams as hparams_module
from dioscuri.data.sources import open_datasets
from dioscuri.errors import run_command
from dioscuri.evaluation.pictures import resized
from dioscuri.outputs.pictures import save_picture
from dioscuri.places import examples

Array = np.ndarray
BLUR = 1 / 16
"""Radius of the Gaussian, in sides of a picture."""


def main(words: list[str]) -> None:
    """Write all folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cfg")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=300, help="most pictures of a folder")
    parser.add_argument("overrides", nargs="*", metavar="section.option=value")
    chosen = parser.parse_intermixed_args(words)  # overrides may follow options
    known = pictures_of(chosen.cfg, chosen.overrides, "test", chosen.pictures)
    sets = {
        "known": known,
        "validation": pictures_of(chosen.cfg, chosen.overrides, "validation", chosen.pictures),
        "turned": np.rot90(known, axes=(1, 2)),
        "inverted": known.max() - known,
        "blurred": blurred(known),
        "flat": flat(known),
        **others(known.shape, chosen.pictures),
    }
    for name, pictures in sets.items():
        for number, picture in enumerate(pictures):
            save_picture(chosen.out / name, f"{number:05d}", np.ascontiguousarray(picture))
        print(f"{chosen.out / name}: {len(pictures)} pictures")


def pictures_of(cfg: str, overrides: list[str], split: str, most: int) -> Array:
    """At most so many pictures of a split, uint8 (N, H, W, C), evenly spaced."""
    pictures = getattr(open_datasets(hparams_module.load(cfg, overrides)), split)
    n = min(most, len(pictures))
    chosen: Array = pictures.gather(np.arange(n) * len(pictures) // n)
    return chosen


def blurred(pictures: Array) -> Array:
    """Pictures smoothed by a Gaussian."""
    gaussian = ImageFilter.GaussianBlur(BLUR * pictures.shape[1])
    return np.stack([as_array(as_image(picture).filter(gaussian), picture.shape[-1]) for picture in pictures])


def flat(pictures: Array) -> Array:
    """Every picture replaced by the colour of one of its pixels."""
    rng = np.random.default_rng(0)
    _, H, W, _ = pictures.shape
    colours = [picture[rng.integers(H), rng.integers(W)] for picture in pictures]
    return np.stack([np.broadcast_to(colour, (H, W, len(colour))) for colour in colours])


def others(shape: tuple[int, ...], most: int) -> dict[str, Array]:
    """Pictures of another kind at this size."""
    _, H, W, C = shape
    if C == 1:
        photographs = pictures_of(str(examples() / "vdvae/photos32.cfg"), [], "test", most)
        grey = [as_array(as_image(picture).convert("L"), 1) for picture in photographs]
        return {"photographs": np.stack([resized(picture, (H, W)) for picture in grey])}
    digits = pictures_of(str(examples() / "hierarchical_vae/digits.cfg"), [], "test", most)
    return {"digits": np.stack([resized(picture.repeat(C, -1), (H, W)) for picture in digits])}


def as_image(picture: Array) -> Image.Image:
    """uint8 (H, W, 1 or 3) as an image."""
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def as_array(image: Image.Image, channels: int) -> Array:
    """An image as uint8 (H, W, channels)."""
    return np.asarray(image).reshape(image.height, image.width, channels)


if __name__ == "__main__":
    run_command(main)
