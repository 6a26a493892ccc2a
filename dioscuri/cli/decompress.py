"""`dioscuri decompress`: the pictures in a file that `dioscuri compress` wrote."""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from dioscuri.cli.parsers import Parser
from dioscuri.compression.archive import Reader
from dioscuri.errors import UserError
from dioscuri.files import replacing_folder, write_failure
from dioscuri.library.load import load
from dioscuri.twins import TITLES

_USAGE = "OUT.dio FOLDER [--model MODEL]"
_DESCRIPTION = """\
Write the pictures of OUT.dio to FOLDER as 000000.png, 000001.png and so on. The file names its model and its
twin; a model that lies elsewhere now is given with --model."""
_EXAMPLE = "dioscuri decompress digits.dio /pictures/again"


def make_parser() -> Parser:
    """The command's parser."""
    parser = Parser("decompress", _USAGE, _DESCRIPTION, _EXAMPLE)
    parser.add_argument("file", type=Path, metavar="OUT.dio")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--model", default="", metavar="MODEL", help="the model that compressed the pictures")
    return parser


def main(words: Sequence[str]) -> None:
    """Decompress what the words name."""
    chosen = make_parser().parse_args(list(words))
    if chosen.folder.exists() and (not chosen.folder.is_dir() or any(chosen.folder.iterdir())):
        raise UserError(f"{chosen.folder} exists already and is not an empty folder: name another")
    try:
        with chosen.file.open("rb") as file:
            model = _model(chosen, Reader(file, str(chosen.file)))
            file.seek(0)
            n, seconds = _write(model, file, chosen)
    except OSError as error:
        reason = write_failure(error)
        raise UserError(f"{error.filename or chosen.folder} cannot be read or written: {reason}") from error
    print(f"{chosen.folder}: {n:,} pictures, {n / seconds:.1f} pictures/s")


def _model(chosen: Any, reader: Reader) -> Any:
    twin, where = reader.header.get("twin"), chosen.model or reader.header.get("where")
    if twin not in TITLES or not isinstance(where, str):
        raise reader.damaged()
    try:
        return load(twin, where)
    except UserError as error:
        hint = "" if chosen.model else "; if it lies elsewhere now, give --model"
        raise UserError(f"{chosen.file} was compressed by the model {where}: {error}{hint}") from error


def _write(model: Any, file: BinaryIO, chosen: Any) -> tuple[int, float]:
    """Write beside, and rename once all pictures are known to be right."""
    begin, n = perf_counter(), 0
    with replacing_folder(chosen.folder) as temporary:
        for first, pictures in model.decompress_from(file, str(chosen.file)):
            n += len(pictures)
            for number, picture in enumerate(pictures, first):
                grey = picture.shape[-1] == 1
                image = Image.fromarray(np.ascontiguousarray(picture[..., 0] if grey else picture))
                image.save(temporary / f"{number:06d}.png")
    return n, perf_counter() - begin
