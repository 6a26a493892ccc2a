"""The part of a run's options that data depends on, and what a source demands of it."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from dioscuri.data.descriptors import Descriptor
from dioscuri.errors import UserError

if TYPE_CHECKING:
    from dioscuri.hparams.sections import Data, Run

Split = Literal["train", "validation", "test"]

PATH_OPTIONS: dict[Split, str] = {
    "train": "train_data_path",
    "validation": "val_data_path",
    "test": "synthesis_data_path",
}


class Options(Protocol):
    """What every family's `HParams` has."""

    @property
    def run(self) -> Run: ...

    @property
    def data(self) -> Data: ...


def check_options(data: Data, descriptor: Descriptor) -> None:
    """Raise a `UserError` where `target_res` or `channels` cannot hold the source's examples."""
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
            f"[data] target_res {data.target_res} leaves nothing inside {padding} pixels of padding"
        )
    if descriptor.channels and data.channels != descriptor.channels:
        raise UserError(
            f"[data] channels is {data.channels}, but pictures of '{name}' have {descriptor.channels}; "
            f"set it to {descriptor.channels}"
        )


def check_axes(data: Data, descriptor: Descriptor) -> None:
    """Raise a `UserError` where the options of sounds and clips do not fit the source."""
    name, rank = data.dataset_source, descriptor.rank
    encoded = data.sample_encoding != "none"
    if rank == 1 and not (data.sample_rate and encoded):
        raise UserError(
            f"[data] dataset_source '{name}' needs sample_rate, and sample_encoding 'mu_law' or 'linear'"
        )
    if rank != 1 and (data.sample_rate or encoded):
        raise UserError(f"[data] sample_rate and sample_encoding belong to sounds, '{name}' has none")
    if rank == 3 and not data.frames:
        raise UserError(f"[data] dataset_source '{name}' needs frames, the length of a clip")
    if rank != 3 and data.frames:
        raise UserError(f"[data] frames belongs to clips, '{name}' has none: leave it 0")


def picture_shape(data: Data, descriptor: Descriptor) -> tuple[int, int, int]:
    """(H, W, C) of a source's pictures before padding."""
    side = data.target_res - 2 * descriptor.padding
    return side, side, data.channels


def matching_files(data: Data, split: Split, suffixes: Sequence[str]) -> list[Path]:
    """Files of a split: one, those of a folder with one of the suffixes, or those that fit a pattern with
    *, ? or [...] (** for folders of any depth); sorted by name, never none (`UserError`)."""
    option = PATH_OPTIONS[split]
    text = getattr(data, option)
    if glob.has_magic(text) and not Path(text).exists():
        found = sorted(Path(name) for name in glob.glob(text, recursive=True))  # noqa: PTH207 - absolute patterns, too
        found = [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
        what = f"fits no file that ends in {', '.join(suffixes)}"
    else:
        path = data_path(data, split)
        found = (
            [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix.lower() in suffixes)
        )
        what = f"holds no file that ends in {', '.join(suffixes)}"
    if not found:
        raise UserError(f"[data] {option} '{text}' {what}")
    return found


def data_path(data: Data, split: Split) -> Path:
    """The path that a split is read from; a `UserError` names the option that is empty or leads nowhere."""
    option = PATH_OPTIONS[split]
    text = getattr(data, option)
    if not text:
        raise UserError(
            f"[data] {option} is empty; '{data.dataset_source}' reads its {split} pictures from there"
        )
    path = Path(text)
    if not path.exists():
        raise UserError(
            f"[data] {option} '{path}' does not exist; set it to your pictures, or prepare a known set "
            "with data_scripts/download_and_preprocess.sh"
        )
    return path
