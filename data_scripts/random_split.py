"""Move N pictures of a folder, chosen at random but reproducibly, into another folder.

python data_scripts/random_split.py IN_FOLDER OUT_FOLDER N [--seed S]
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dioscuri.data.image_files import SUFFIXES
from dioscuri.data.listing import folder_files
from dioscuri.errors import UserError, run_command


def choose(folder: Path, n: int, seed: int = 101) -> list[Path]:
    """Return the last `n` pictures of a shuffle of the sorted names; a `UserError` if none would remain."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    paths = folder_files(folder, SUFFIXES)
    if not 0 < n < len(paths):
        raise UserError(f"{folder} has {len(paths)} pictures; moving {n} would leave none")
    order = np.arange(len(paths))
    np.random.RandomState(seed).shuffle(order)
    return [paths[index] for index in order[-n:]]


def move(paths: Sequence[Path], folder: Path) -> None:
    """Move files into a folder: all of them or, if a name is taken, none."""
    existing = [path.name for path in paths if (folder / path.name).exists()]
    if existing:
        raise UserError(f"{folder} already has {existing[0]}; nothing was moved")
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        shutil.move(path, folder / path.name)


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Move N pictures of a folder, chosen at random, into another."
    )
    parser.add_argument("in_folder", type=Path)
    parser.add_argument("out_folder", type=Path)
    parser.add_argument("n", type=int)
    parser.add_argument("--seed", type=int, default=101, help="of the shuffle (default %(default)s)")
    options = parser.parse_args(arguments)
    paths = choose(options.in_folder, options.n, options.seed)
    move(paths, options.out_folder)
    print(f"moved {len(paths)} pictures to {options.out_folder}")


if __name__ == "__main__":
    run_command(main)
