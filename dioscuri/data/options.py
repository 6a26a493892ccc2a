"""The data options of a run, and the checks of each source."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from dioscuri.data.descriptors import Descriptor
from dioscuri.data.listing import Files, find_files
from dioscuri.errors import UserError

if TYPE_CHECKING:
    from dioscuri.hparams.sections import Data, Run

MAX_SIDE = 2**13
"""Longest side of a picture in pixels; sounds are longer."""

Split = Literal["train", "validation", "test"]

PATH_OPTIONS: dict[Split, str] = {
    "train": "train_data_path",
    "validation": "val_data_path",
    "test": "synthesis_data_path",
}


class Options(Protocol):
    """The data section that every family's `HParams` has."""

    @property
    def run(self) -> Run: ...

    @property
    def data(self) -> Data: ...


def check_options(data: Data, descriptor: Descriptor) -> None:
    """Raise a `UserError` if `target_res` or `channels` cannot hold the source's examples."""
    check_axes(data, descriptor)
    name, padding = data.dataset_source, descriptor.padding
    if descriptor.resolution:
        expected = descriptor.resolution + 2 * padding
        smaller = [descriptor.resolution // side for side in descriptor.averaged]
        if data.target_res not in (expected, *smaller):
            padded = f" with {padding} pixels of padding on each side" if padding else ""
            raise UserError(
                f"[data] target_res is {data.target_res}, but pictures of '{name}' are "
                f"{descriptor.resolution} pixels wide{padded}; set it to {expected}"
                + "".join(f" or {resolution}" for resolution in smaller)
            )
    elif data.target_res <= 2 * padding:
        raise UserError(
            f"[data] target_res {data.target_res} leaves nothing between {padding} pixels of padding"
        )
    if descriptor.channels and data.channels != descriptor.channels:
        raise UserError(
            f"[data] channels is {data.channels}, but pictures of '{name}' have {descriptor.channels}; "
            f"set it to {descriptor.channels}"
        )


def check_axes(data: Data, descriptor: Descriptor) -> None:
    """Raise a `UserError` if options of sounds or clips do not fit the source, or pictures are larger than
    any model takes."""
    name, rank = data.dataset_source, descriptor.rank
    if rank != 1 and data.target_res > MAX_SIDE:
        raise UserError(f"[data] target_res must be at most {MAX_SIDE} pixels, not {data.target_res}")
    encoded = data.sample_encoding != "none"
    if rank == 1 and not (data.sample_rate and encoded):
        raise UserError(
            f"[data] dataset_source '{name}' needs sample_rate, and sample_encoding 'mu_law' or 'linear'"
        )
    if rank != 1 and (data.sample_rate or encoded):
        raise UserError(
            f"[data] sample_rate and sample_encoding are for sounds, but '{name}' has none: leave them out"
        )
    if rank == 3 and not data.frames:
        raise UserError(f"[data] dataset_source '{name}' needs frames, the length of a clip")
    if rank != 3 and data.frames:
        raise UserError(f"[data] frames is for clips, but '{name}' has none: set it to 0")


def picture_shape(data: Data, descriptor: Descriptor) -> tuple[int, int, int]:
    """(H, W, C) of a source's pictures before padding."""
    side = data.target_res - 2 * descriptor.padding
    return side, side, data.channels


def matching_files(
    data: Data,
    split: Split,
    suffixes: Collection[str],
    *,
    noun: str = "files",
    class_folders: bool = False,
) -> Files:
    """Files of a split with one of the suffixes, at least one (`UserError`); see `dioscuri.data.listing`."""
    option = PATH_OPTIONS[split]
    text = getattr(data, option)
    if not text:
        raise UserError(_empty(data, split))
    return find_files(text, suffixes, f"[data] {option}", noun=noun, class_folders=class_folders)


def data_path(data: Data, split: Split) -> Path:
    """The path that a split is read from, a folder or a plain file. A `UserError` if the option is empty,
    names a path that does not exist, or names several."""
    option = PATH_OPTIONS[split]
    text = getattr(data, option)
    if not text:
        raise UserError(_empty(data, split))
    if not isinstance(text, str):
        raise UserError(
            f"[data] {option} has {len(text)} paths, but '{data.dataset_source}' reads only one: give one"
        )
    path = Path(text)
    if not path.exists():
        raise UserError(
            f"[data] {option} '{path}' does not exist; set it to your pictures, or prepare a known set "
            "with data_scripts/download_and_preprocess.sh"
        )
    if not path.is_dir() and not path.is_file():
        raise UserError(f"[data] {option} '{path}' is neither a regular file nor a folder")
    return path


def _empty(data: Data, split: Split) -> str:
    source, option = data.dataset_source, PATH_OPTIONS[split]
    if source == "tokens":
        return f"[data] {option} is empty: give a folder of tokens, or name pictures by data.dataset_source"
    return f"[data] {option} is empty; '{source}' reads its {split} pictures from there"
