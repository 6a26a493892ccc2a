"""Convert between a folder of pictures and one npy file, which is memory-mapped and needs no decoding.

python data_scripts/convert.py to-npy FOLDER FILE.npy --resolution R [--channels 3]
python data_scripts/convert.py to-folder FILE.npy FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from dioscuri.data.image_files import SUFFIXES, Refused, decode
from dioscuri.data.listing import folder_files
from dioscuri.data.numpy_files import Damaged, read_npy
from dioscuri.errors import UserError, run_command


def to_npy(folder: Path, target: Path, resolution: int, channels: int) -> int:
    """Write the pictures, sorted by name, as uint8 (N, R, R, C); return N."""
    paths = folder_files(folder, SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise UserError(f"{folder} is not a folder of pictures")
    temporary = target.with_name(target.name + ".part")
    try:
        out = open_memmap(temporary, "w+", np.uint8, (len(paths), resolution, resolution, channels))
        for row, path in enumerate(paths):
            try:
                out[row] = decode(path, resolution, channels)
            except Refused as refused:
                raise UserError(f"{path}: {refused}") from refused
        out.flush()
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return len(paths)


def to_folder(source: Path, folder: Path) -> int:
    """Write each picture of uint8 (N, H, W), (N, H, W, 1) or (N, H, W, 3) as `<number>.png`; return N."""
    try:
        pictures = read_npy(source)
    except Damaged as error:
        raise UserError(f"{source}: not a numpy array file ({error})") from error
    grey_or_rgb = pictures.ndim == 3 or (pictures.ndim == 4 and pictures.shape[3] in (1, 3))
    if pictures.dtype != np.uint8 or not grey_or_rgb:
        raise UserError(f"{source}: holds {pictures.dtype} {pictures.shape}, not grey or RGB uint8 pictures")
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        plain = picture[..., 0] if picture.shape[2:] == (1,) else picture
        Image.fromarray(np.ascontiguousarray(plain)).save(folder / f"{number:08d}.png")
    return len(pictures)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Convert between a folder of pictures and a npy file.")
    commands = parser.add_subparsers(dest="command", required=True)
    forth = commands.add_parser("to-npy", help="decode and resize a folder once")
    forth.add_argument("source", type=Path)
    forth.add_argument("target", type=Path)
    forth.add_argument("--resolution", type=int, required=True)
    forth.add_argument("--channels", type=int, choices=(1, 3), default=3)
    back = commands.add_parser("to-folder", help="write the pictures of a npy file as PNG")
    back.add_argument("source", type=Path)
    back.add_argument("target", type=Path)
    options = parser.parse_args(arguments)
    if options.command == "to-npy":
        count = to_npy(options.source, options.target, options.resolution, options.channels)
    else:
        count = to_folder(options.source, options.target)
    print(f"wrote {count} pictures to {options.target}")


if __name__ == "__main__":
    run_command(main)
