"""Make token shards from a latent folder of sundae-vqgan, with one file per
picture and one per mirrored picture.

python data_scripts/import_latents.py LATENTS FOLDER --codebook-size K [--tokenizer RUN] [--pictures A:B]

LATENTS holds <index>.r.npy and, unless it was made without mirroring, <index>.l.npy, or a folder of these for
each class; indices count from 0 over all classes. `--pictures` selects pictures by index, so that mirrored
pairs stay in one split. Labels are the numbers of the class folders. The original's networks number the
folders in the order of their names as text ('0', '1', '10', ...); `--legacy-classes` keeps this for weights
trained with it. The shards' header records that order in either case.
"""

import argparse
import re
from collections.abc import Collection, Sequence
from math import isqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dioscuri.data.listing import folder_files, subfolders
from dioscuri.data.numpy_files import Damaged, read_npy
from dioscuri.data.tokens import TokenWriter
from dioscuri.errors import UserError, run_command
from dioscuri.families.vqgan.trained import open_tokenizer

NAME = re.compile(r"(\d+)(\.[rl])?\.npy")


class Latent(NamedTuple):
    """A file of one picture or of its mirror image, and the number of its class folder, -1 without one."""

    label: int
    index: int
    side: str
    path: Path


def listed(folder: Path) -> list[Latent]:
    """Every latent, by class and index; a `UserError` if a file is missing, duplicated or foreign."""
    if not folder.is_dir():
        raise UserError(f"latents {folder} do not exist: give the folder of generate-latents.py")
    classes = subfolders(folder)
    for path in classes:
        if not path.name.isdecimal() or path.name != str(int(path.name)):
            raise UserError(f"latents {path}: class folders must be named by number: 0, 1, ...")
    latents = [latent for path in classes for latent in _in_folder(path, int(path.name))]
    latents += _in_folder(folder, -1)
    if not latents:
        raise UserError(f"latents {folder} holds no file <index>.r.npy")
    labels = {latent.label for latent in latents}
    for path in classes:
        if int(path.name) not in labels:
            raise UserError(f"latents {path} holds no file <index>.r.npy: restore the files of this class")
    if classes and -1 in labels:
        raise UserError(f"latents {folder} holds files next to the class folders: move them away")
    latents.sort()
    _check_gaps(folder, latents)
    return latents


def string_order(labels: Collection[int]) -> list[int]:
    """The class folders in the order of the original's networks: their numbers sorted as text."""
    return sorted(set(labels), key=str)


def read(latent: Latent, length: int, codebook_size: int) -> np.ndarray:
    """Tokens (L,) of a file; a `UserError` if it holds anything else."""
    tokens = _load(latent.path)
    if tokens.dtype.kind not in "iu" or len(tokens) != length:
        raise UserError(
            f"latents {latent.path} holds {len(tokens)} values of {tokens.dtype}, not {length} tokens"
        )
    wrong = tokens[(tokens < 0) | (tokens >= codebook_size)]
    if len(wrong):
        raise UserError(
            f"latents {latent.path} holds the token {wrong.max()}, but --codebook-size is {codebook_size}: "
            "give the codebook size of the tokenizer that made them"
        )
    return tokens


def _load(path: Path) -> np.ndarray:
    try:
        return np.array(read_npy(path)).reshape(-1)
    except Damaged as error:
        raise UserError(f"latents {path} cannot be read: {error}") from error


def _in_folder(folder: Path, label: int) -> list[Latent]:
    latents = []
    for path in folder_files(folder, (".npy",)):
        match = NAME.fullmatch(path.name)
        if match is None:
            raise UserError(f"latents {path} is not named <index>.r.npy or <index>.l.npy: move it away")
        latents.append(Latent(label, int(match[1]), match[2] or ".r", path))
    return latents


def _check_gaps(folder: Path, latents: Sequence[Latent]) -> None:
    """Check that indices are 0, 1, ... over all classes, and that all pictures or none are mirrored."""
    sides = {side: [latent for latent in latents if latent.side == side] for side in (".r", ".l")}
    for of_side in sides.values():
        for expected, latent in enumerate(sorted(of_side, key=lambda latent: latent.index)):
            if latent.index < expected:
                raise UserError(f"latents {latent.path}: another file has this index: move one away")
            if latent.index > expected:
                name = re.sub(r"\d+", f"{expected:06d}", latent.path.name, count=1)
                where = " in the folders of classes" if latent.label >= 0 else ""
                raise UserError(
                    f"latents {folder}: {name} is missing{where}: restore it, or give --pictures for a subset"
                )
    left, right = ({latent.index for latent in sides[side]} for side in (".l", ".r"))
    if left and left != right:
        raise UserError(
            f"latents {folder}: picture {min(left ^ right)} has one of .r.npy and .l.npy, but not both"
        )


def main(words: Sequence[str]) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser("import_latents.py", description=__doc__)
    parser.add_argument("latents", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--codebook-size", type=int, required=True)
    parser.add_argument("--tokenizer", type=Path, help="run folder of the tokenizer that made them")
    parser.add_argument("--pictures", default="", metavar="A:B", help="pictures A to B - 1 only")
    parser.add_argument("--legacy-classes", action="store_true", help="labels as the original counts them")
    chosen = parser.parse_args(words)
    whole = listed(chosen.latents)
    order = string_order({latent.label for latent in whole} - {-1})
    latents = _chosen(whole, chosen.pictures)
    first = len(_load(latents[0].path))
    side = isqrt(first)
    if not first or side**2 != first:
        raise UserError(f"latents {latents[0].path} holds {first} tokens, which do not form a square grid")
    rank = {label: place for place, label in enumerate(order)} if chosen.legacy_classes else None
    labels = np.array([rank[latent.label] if rank else latent.label for latent in latents], np.int32)
    header = {
        "grid": [side, side],
        "codebook_size": chosen.codebook_size,
        "tokenizer": _maker(chosen.tokenizer),
        "source": str(chosen.latents),
        "string_order": order,
        "legacy_classes": chosen.legacy_classes,
    }
    keys = [str(latent.path.relative_to(chosen.latents)) for latent in latents]
    writer = TokenWriter(chosen.folder, header, keys, labels if order else None)
    for latent in latents[writer.n_pictures :]:
        writer.add(read(latent, first, chosen.codebook_size).reshape(1, side, side))
    writer.finish()
    _warn_of_gaps(chosen.latents, order, legacy=chosen.legacy_classes)
    classes = f", of a set of {len(order)} classes" if order else ""
    print(f"{len(latents)} pictures as {side}x{side} tokens in {chosen.folder}{classes}")


def _warn_of_gaps(folder: Path, order: Sequence[int], *, legacy: bool) -> None:
    """Check that no class folder is missing: the original ranks existing folders, so
    a gap shifts later classes."""
    for expected, label in enumerate(sorted(order)):
        if label != expected:
            how = "count the folders that are there, as in the original" if legacy else "skip it"
            print(f"warning: {folder} has no folder of class {expected}: labels {how}")
            return


def _chosen(latents: list[Latent], span: str) -> list[Latent]:
    if not span:
        return latents
    match = re.fullmatch(r"(\d*):(\d*)", span)
    if match is None:
        raise UserError(f"--pictures '{span}' must be A:B, the first picture and the one after the last")
    low, high = int(match[1] or 0), int(match[2] or 2**62)
    selected = [latent for latent in latents if low <= latent.index < high]
    if not selected:
        raise UserError(f"--pictures '{span}': no picture has such an index")
    return selected


def _maker(run: Path | None) -> dict[str, str]:
    """The identity of the tokenizer in the header."""
    if run is None:
        return {"sha256": "unknown", "run": "unknown"}
    tokenizer = open_tokenizer(run)
    return {"sha256": tokenizer.sha256, "run": tokenizer.hparams.run.name, "weights": "ema"}


if __name__ == "__main__":
    run_command(main)
