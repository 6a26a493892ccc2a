"""`dioscuri evaluate --ood`: how well a model tells foreign pictures from those that it knows."""

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.cli.parsers import Parser, add_twin, output_file
from dioscuri.errors import UserError
from dioscuri.evaluation.foreign import KNOWN, ForeignReport
from dioscuri.evaluation.foreign_files import choice, summary, table, write_report
from dioscuri.evaluation.pictures import Pictures, open_examples
from dioscuri.face.model import BATCH_SIZE
from dioscuri.files import write_json
from dioscuri.library.load import load
from dioscuri.twins import default_twin
from dioscuri.versions import versions

Array = np.ndarray

OPTION = "--ood"
_ONLY = ("ood", "known", "foreign", "validation", "levels", "n_samples", "batch_size", "out")
"""Arguments that make sense with that option alone."""
USAGE = "--ood MODEL --known SET --foreign SET ... [--validation SET] [--out FOLDER] ..."
_DESCRIPTION = """\
Score pictures with a VAE, and measure how well every score separates foreign pictures from known ones. MODEL
is what load opens in Python, such as a run's folder. A SET is a folder of pictures, a .npy file, uint8
(N, H, W, C), or an .npz file with pictures 'arr_0', of the model's size and channels.
The scores, all of them higher for more foreign pictures, are the likelihood, -log p(x) as far as the bound
shows; the likelihood ratio of Havtorn et al. 2021, whose K finest levels come from the prior; and -log2 p(x)
less the bits of the picture as PNG, as lossless WebP and as the shorter of both (Serra et al. 2020)."""
_EXAMPLE = "dioscuri evaluate --ood torch_impl/logs-mine --known /pictures/test --foreign /pictures/strange"


@dataclass(frozen=True)
class Opened:
    """Pictures of a file or folder for a model; a `UserError` names the first that does not fit it."""

    pictures: Pictures
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def gather(self, indices: Array) -> Array:
        """Pictures uint8 (B, H, W, C)."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return np.stack([*pool.map(self._picture, indices.tolist())])

    def _picture(self, index: int) -> Array:
        picture = self.pictures.picture(index, self.shape[2])
        if picture.shape != self.shape:
            raise UserError(
                f"{self.pictures.name(index)}: is {_size(picture.shape)}, but the model takes "
                f"{_size(self.shape)}; give --resize {self.shape[0]}"
            )
        return picture


def main(words: Sequence[str]) -> None:
    """Measure what the words name."""
    asks = {"-h", "--help"} & {*words}  # `--ood --help`: argparse would look for a model first
    chosen = make_parser().parse_args(list(asks or words))
    _check_out(chosen)
    model: Any = load(chosen.twin or default_twin(), chosen.ood)
    if "detect" not in model.does:
        model.detect((), ())  # says why it cannot
    foreign = _named(chosen.foreign)
    opened = {name: _open(path, model, chosen.resize) for name, path in foreign.items()}
    known = _open(chosen.known, model, chosen.resize)
    validation = chosen.validation and _open(chosen.validation, model, chosen.resize)
    options = {"samples": chosen.n_samples, "seed": chosen.seed, "batch_size": chosen.batch_size}
    report = model.detect(known, opened, validation=validation, k=chosen.levels, **options)
    print(f"model:   {model}")
    print(f"known:   {len(report.known)} of {chosen.known}, seed {chosen.seed}, {chosen.n_samples} samples")
    print(*choice(report), *table(report), sep="\n")
    _write(report, {KNOWN: known, **opened}, chosen)


def make_parser() -> Parser:
    """The parser of this form of the command."""
    parser = Parser("evaluate", USAGE, _DESCRIPTION, _EXAMPLE)
    add_options(parser, required=True)
    add_twin(parser)
    parser.add_argument("--resize", type=int, default=0, metavar="SIDE", help="resize pictures to squares")
    parser.add_argument("--seed", type=int, default=0, help="seed of the latents")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="also write the results to FILE")
    return parser


def add_options(parser: Parser, *, required: bool = False) -> None:
    """The options that only this form of the command has."""
    group: Any = parser.add_argument_group("foreign pictures") if not required else parser
    group.add_argument(OPTION, metavar="MODEL", required=required, help="score pictures with this VAE")
    group.add_argument("--known", type=Path, required=required, metavar="SET", help="pictures of its kind")
    group.add_argument(
        "--foreign", type=Path, nargs="+", required=required, metavar="SET", help="pictures of other kinds"
    )
    group.add_argument(
        "--validation",
        type=Path,
        metavar="SET",
        help="known pictures to choose K with, instead of a quarter of KNOWN",
    )
    group.add_argument(
        "--levels",
        type=int,
        metavar="K",
        help="number of finest levels that come from the prior (default: the best)",
    )
    group.add_argument(
        "--samples",
        type=int,
        default=4,
        dest="n_samples",
        metavar="N",
        help="draws of each picture's latents",
    )
    group.add_argument("--batch-size", type=int, default=BATCH_SIZE, metavar="N", help="pictures at once")
    group.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write report.json, scores.csv and histograms there"
    )


def refuse_options(chosen: argparse.Namespace, parser: Parser) -> None:
    """Remove the options of this form from the other's; a `UserError` if one was given."""
    for name in _ONLY:
        if getattr(chosen, name) != parser.get_default(name):
            option = "--" + name.removeprefix("n_").replace("_", "-")
            raise UserError(f"{option} belongs to {OPTION} MODEL: give both, or leave it out")
        delattr(chosen, name)


def _named(paths: Sequence[Path]) -> dict[str, Path]:
    """Sets by the names of their folders or files, or by their whole paths if names are the same."""
    names = [path.stem if path.is_file() else path.name for path in paths]
    if len({*names, KNOWN}) <= len(paths):
        names = [str(path) for path in paths]
    if len(set(names)) < len(paths):
        raise UserError(f"--foreign has {names[0]} twice: give every set once")
    return dict(zip(names, paths, strict=True))


def _check_out(chosen: argparse.Namespace) -> None:
    """Histograms are pictures, and must not become part of a set."""
    if chosen.out is None:
        return
    out = chosen.out.resolve()
    for path in (chosen.known, *chosen.foreign, *filter(None, (chosen.validation,))):
        if out.is_relative_to(path.resolve()):
            raise UserError(f"--out {chosen.out} lies in the set {path}: give a folder outside of it")


def _open(path: Path, model: Any, side: int) -> Opened:
    H, W, C = model.picture_shape
    if side not in (0, H):
        raise UserError(f"--resize must be {H}, the size of the model's pictures, not {side}")
    pictures = open_examples(path, side)
    if not isinstance(pictures, Pictures):
        raise UserError(f"{path} holds features, not pictures: give a folder, or a .npy or .npz file of them")
    if pictures.clip:
        raise UserError(
            f"{path} holds clips, not pictures: give a folder, or a .npy or .npz file of pictures"
        )
    if pictures.channels != C:
        kinds = {1: "grey", 3: "RGB"}
        raise UserError(
            f"{path}: pictures are {kinds.get(pictures.channels, f'of {pictures.channels} channels')}, the "
            f"model takes {kinds.get(C, f'{C} channels')}: convert them first, for a conversion would be "
            "recognised rather than the picture"
        )
    return Opened(pictures, (H, W, C))


def _write(report: ForeignReport, opened: dict[str, Opened], chosen: argparse.Namespace) -> None:
    given = {name: _text(value) for name, value in vars(chosen).items()}
    settings = {"settings": given | {"versions": versions()}}
    if chosen.json is not None:
        write_json(chosen.json, summary(report) | settings)
    if chosen.out is not None:
        write_report(chosen.out, report, settings, lambda name, index: opened[name].pictures.name(index))
        print(f"all scores, histograms and the report: {chosen.out}")


def _text(value: Any) -> Any:
    return [str(item) for item in value] if isinstance(value, list) else None if value is None else str(value)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[:2]))
