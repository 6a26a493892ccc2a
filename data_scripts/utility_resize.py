"""Bring the pictures of a folder to one square size, as PNG files in another folder.

python data_scripts/utility_resize.py --in-path IN --out-path OUT --resolution R
    --resize-type {center_crop,random_crop,reshape} [--repeat-n 4] [--seed S]

center_crop  the largest central square, scaled to R x R
random_crop  R x R windows at random places, N per picture, named <stem>_re00.png, <stem>_re01.png, ...
reshape      the whole picture scaled to R x R; the aspect ratio is not kept
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dioscuri.data.image_files import SUFFIXES, Refused, flatten, open_image
from dioscuri.data.listing import folder_files
from dioscuri.errors import UserError, run_command

Picture = Image.Image


def center_crop(picture: Picture, resolution: int) -> Picture:
    """Scale the largest central square."""
    side = min(picture.size)
    left, upper = (picture.width - side) // 2, (picture.height - side) // 2
    return reshape(picture.crop((left, upper, left + side, upper + side)), resolution)


def random_crop(picture: Picture, resolution: int, generator: np.random.Generator) -> Picture:
    """Cut a window; a `UserError` if the picture is smaller."""
    if min(picture.size) < resolution:
        raise UserError(f"is {picture.width}x{picture.height}, too small for windows of {resolution}")
    left = int(generator.integers(picture.width - resolution + 1))
    upper = int(generator.integers(picture.height - resolution + 1))
    return picture.crop((left, upper, left + resolution, upper + resolution))


def reshape(picture: Picture, resolution: int) -> Picture:
    """Scale both sides."""
    return picture.resize((resolution, resolution), Image.Resampling.BILINEAR)


def results(path: Path, options: argparse.Namespace) -> Iterator[tuple[str, Picture]]:
    """Yield (file name, picture) for each result of one file."""
    with open_image(path) as image:
        picture = flatten(image).convert("L" if image.mode == "L" else "RGB")
        if options.resize_type != "random_crop":
            resize = center_crop if options.resize_type == "center_crop" else reshape
            yield f"{path.stem}.png", resize(picture, options.resolution)
            return
        # One generator per picture, so that its windows do not depend on other files.
        generator = np.random.default_rng([options.seed, *path.name.encode()])
        for number in range(options.repeat_n):
            yield f"{path.stem}_re{number:02d}.png", random_crop(picture, options.resolution, generator)


def run(options: argparse.Namespace) -> int:
    """Convert every picture; return how many files were written. Existing files are not overwritten."""
    if not options.in_path.is_dir():
        raise UserError(f"{options.in_path} is not a folder")
    paths = folder_files(options.in_path, SUFFIXES)
    if not paths:
        raise UserError(f"{options.in_path} holds no pictures")
    options.out_path.mkdir(parents=True, exist_ok=True)
    written = 0
    for path in paths:
        try:
            for name, picture in results(path, options):
                with (options.out_path / name).open("xb") as stream:
                    picture.save(stream, "PNG")
                written += 1
        except FileExistsError as error:
            raise UserError(
                f"{error.filename} exists; choose an empty folder, or rename the pictures"
            ) from error
        except (Refused, UserError) as error:
            raise UserError(f"{path}: {error}") from error
    return written


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Bring the pictures of a folder to one square size.")
    parser.add_argument("--in-path", type=Path, required=True)
    parser.add_argument("--out-path", type=Path, required=True)
    parser.add_argument("--resolution", type=int, required=True)
    parser.add_argument("--resize-type", choices=("center_crop", "random_crop", "reshape"), required=True)
    parser.add_argument("--repeat-n", type=int, default=4, help="windows a picture (default %(default)s)")
    parser.add_argument("--seed", type=int, default=101, help="of the windows (default %(default)s)")
    options = parser.parse_args(arguments)
    if options.resolution < 1 or options.repeat_n < 1:
        raise UserError("--resolution and --repeat-n must be at least 1")
    print(f"wrote {run(options)} pictures to {options.out_path}")


if __name__ == "__main__":
    run_command(main)
