"""`dioscuri compress`: pictures to one file, without loss, by a trained model."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from dioscuri.cli.parsers import Parser, add_twin, output_file
from dioscuri.compression.archive import SUFFIX
from dioscuri.data import image_files
from dioscuri.errors import UserError
from dioscuri.evaluation.pictures import PictureArray, PictureFiles, open_examples
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.files import missing_parents, remove_empty, replacing, write_failure
from dioscuri.inputs import read_pictures
from dioscuri.library.load import load
from dioscuri.twins import default_twin

_USAGE = "MODEL PICTURES OUT.dio [--stream] [--batch-size N] [--seed N] [--no-check] [--twin T]"
_DESCRIPTION = """\
Compress pictures without loss, by bits-back coding with a VAE. MODEL is what load opens in Python, such as a
run's folder: a hierarchical VAE or Metroplex, with a mixture of logistics or a Bernoulli likelihood. PICTURES
is a folder of image files or a .npy file, uint8 (N, H, W, C), of the model's size and channels.
The result opens only with the same weights, twin, versions, kind of device and number of threads."""
_EXAMPLE = "dioscuri compress torch_impl/logs-digits /pictures/test digits.dio"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("compress", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("pictures", type=Path, metavar="PICTURES")
    parser.add_argument("out", type=output_file, metavar="OUT.dio")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="for more pictures than fit into memory: read them batch by batch and write OUT.dio as they "
        "come; until the end it is marked as incomplete",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=BATCH_SIZE,
        metavar="N",
        help="pictures that the network takes at a time, at most",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the borrowed bits")
    parser.add_argument(
        "--no-check", action="store_true", help="do not decompress the result to see that it is right"
    )
    add_twin(parser)
    return parser


def main(words: Sequence[str]) -> None:
    """Compress what the words name."""
    chosen = make_parser().parse_args(list(words))
    if chosen.out.suffix != SUFFIX:
        raise UserError(f"{chosen.out}: the name must end in {SUFFIX}")
    pictures = open_examples(chosen.pictures)
    if not isinstance(pictures, PictureArray | PictureFiles):
        raise UserError(f"{chosen.pictures} holds features: give a folder of pictures or a .npy file of them")
    model = load(chosen.twin or default_twin(), chosen.model)
    chunks = read(pictures, model)
    if chosen.stream:
        sizes, seconds = _in_place(model, chunks, chosen)
    else:
        whole = np.concatenate([*chunks])
        with replacing(chosen.out) as beside:
            sizes, seconds = _write(model, iter([whole]), beside, chosen)
    _tell(sizes, seconds, model, chosen)


def read(pictures: PictureArray | PictureFiles, model: Model) -> Iterator[np.ndarray]:
    """Pictures of the model's size and channels, in their order; a `UserError` names the first that is of
    others, for nothing is converted."""
    if "compress" not in model.does:
        model.compress(())  # says why it cannot
    if isinstance(pictures, PictureArray):
        for first in range(0, len(pictures), BATCH_SIZE):
            rows = np.array(pictures.array[first : first + BATCH_SIZE])
            yield read_pictures(rows, model.picture_shape, what=f"{pictures.path}: pictures")
        return
    for file in pictures.files:
        try:
            with image_files.open_image(file) as image:
                image.load()
                yield read_pictures(image, model.picture_shape, what=str(file))
        except image_files.Refused as refused:
            raise UserError(f"{file}: {refused}; repair or remove it") from refused


def _in_place(model: Model, chunks: Iterator[np.ndarray], chosen: Any) -> tuple[dict[str, int], float]:
    missing = missing_parents(chosen.out)
    try:
        chosen.out.parent.mkdir(parents=True, exist_ok=True)
        return _write(model, chunks, chosen.out, chosen)
    except UserError:
        if chosen.out.is_file() and not chosen.out.stat().st_size:
            chosen.out.unlink()  # nothing was compressed yet
        raise
    except OSError as error:
        raise UserError(f"{chosen.out} cannot be written: {write_failure(error)}") from error
    finally:
        remove_empty(missing)


def _write(model: Any, chunks: Iterator[np.ndarray], out: Path, chosen: Any) -> tuple[dict[str, int], float]:
    options = {"seed": chosen.seed, "batch_size": chosen.batch_size, "where": chosen.model}
    with out.open("w+b") as file:
        begin = perf_counter()
        sizes: dict[str, int] = model.compress_into(file, chunks, check=False, **options)
        seconds = perf_counter() - begin
        if not chosen.no_check:
            file.seek(0)
            for _ in model.decompress_from(file, "the result"):
                pass
    return sizes, seconds


def _tell(sizes: dict[str, int], seconds: float, model: Model, chosen: Any) -> None:
    values = sizes["pictures"] * int(np.prod(model.picture_shape))
    checked = "not checked" if chosen.no_check else "checked"
    print(
        f"{chosen.out}: {sizes['pictures']:,} pictures in {sizes['bytes']:,} bytes, "
        f"{8 * sizes['bytes'] / values:.3f} bits/dim, {checked}; {sizes['pictures'] / seconds:.1f} pictures/s"
    )
    print(
        f"of these, {sizes['initial']:,} bits were borrowed to begin with, and {sizes['overhead']:,} bytes "
        "are the header and the trailer"
    )
