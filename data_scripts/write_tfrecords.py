"""Write pictures, perhaps with captions, to TFRecord files that DALLE-mtf, Metroplex and this project read.

python data_scripts/write_tfrecords.py PICTURES.jsonl FOLDER [--name NAME] [--tokenizer tokenizer.json]
python data_scripts/write_tfrecords.py FOLDER_OF_PICTURES FOLDER [--name NAME]

A line of PICTURES.jsonl is {"image_path": path from the file's folder, "caption": text, texts (the first is
used) or token numbers}. Texts need a tokenizer's file, such as GPT-2's; --no-captions omits them.
FOLDER/NAME_0.tfrecords and so on hold 1000 pictures each; FOLDER must be new.
"""

import argparse
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from dioscuri.data import image_files
from dioscuri.data.listing import folder_files
from dioscuri.data.tf_example import encode
from dioscuri.data.tfrecords import CAPTION, IMAGE, write_tfrecords
from dioscuri.errors import UserError, run_command

PER_FILE = 1000
QUALITY = 94
Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True)
class Entry:
    """A picture, its caption, if any, and its place in the list."""

    path: Path
    caption: str | list[int] | None
    where: str


def entries(source: Path, *, with_captions: bool) -> list[Entry]:
    """The pictures of a folder or a list; a `UserError` names the line at fault."""
    if source.is_dir():
        paths = folder_files(source, image_files.SUFFIXES)
        listed = [Entry(path, None, str(path)) for path in paths]
    else:
        try:
            lines = source.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source} cannot be read ({error}): give a folder or a .jsonl file") from error
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        listed = [_entry(source, number, line, with_captions) for number, line in numbered]
    if not listed:
        raise UserError(f"{source} holds no pictures")
    if len({entry.caption is None for entry in listed}) > 1:
        lacking = next(entry for entry in listed if entry.caption is None)
        raise UserError(
            f'{lacking.where}: no "caption", but other entries have one: add it or give --no-captions'
        )
    return listed


def _entry(source: Path, number: int, line: str, with_captions: bool) -> Entry:
    where = f"{source}, line {number}"
    try:
        fields: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    name = fields.get("image_path") if isinstance(fields, dict) else None
    if not isinstance(name, str) or not name:
        raise UserError(f'{where}: needs a string "image_path"')
    caption = fields.get("caption") if with_captions else None
    if isinstance(caption, list) and caption and all(isinstance(item, str) for item in caption):
        caption = caption[0]
    is_tokens = isinstance(caption, list) and all(_is_token(item) for item in caption)
    if caption is not None and not isinstance(caption, str) and not is_tokens:
        raise UserError(f'{where}: "caption" must be a string, a list of strings, or token numbers')
    return Entry(source.parent / name, caption, where)


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def open_tokenizer(path: Path | None) -> Tokenize | None:
    """The tokenizer in a file; a `UserError` if the file is not one."""
    if path is None:
        return None
    from tokenizers import Tokenizer  # noqa: PLC0415 - only captions need it

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing more specific
        raise UserError(f"--tokenizer {path} cannot be opened: {error}") from error
    return lambda text: list(tokenizer.encode(text).ids)


def message(entry: Entry, tokenize: Tokenize | None, *, reencode: bool) -> bytes:
    """The record of a picture; a `UserError` if it cannot be read or its caption cannot be tokenised."""
    try:
        with image_files.open_image(entry.path) as image:
            picture = image_files.flatten(image).convert("RGB")
        content = _jpeg(picture) if reencode else entry.path.read_bytes()
    except image_files.Refused as refused:
        raise UserError(f"{entry.where}: {entry.path}: {refused}; repair or remove it") from refused
    tokens = entry.caption
    if isinstance(tokens, str):
        if tokenize is None:
            raise UserError(f"{entry.where}: the caption is text: give --tokenizer, or --no-captions")
        tokens = tokenize(tokens)
    return encode({IMAGE: [content], **({} if tokens is None else {CAPTION: tokens})})


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def write(listed: list[Entry], folder: Path, name: str, tokenize: Tokenize | None, *, reencode: bool) -> int:
    """Write all files into a folder that appears when they are complete; return how many."""
    if folder.exists():
        raise UserError(f"{folder} exists: remove it, or name another folder")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        starts = range(0, len(listed), PER_FILE)
        with tqdm(total=len(listed), desc="pictures") as bar:

            def messages(first: int) -> Iterator[bytes]:
                for entry in listed[first : first + PER_FILE]:
                    yield message(entry, tokenize, reencode=reencode)
                    bar.update()

            for k, first in enumerate(starts):
                write_tfrecords(partial / f"{name}_{k}.tfrecords", messages(first))
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return len(starts)


def main(arguments: list[str]) -> None:
    """Run the command line; raises `UserError`."""
    options = _parser().parse_args(arguments)
    listed = entries(options.source, with_captions=not options.no_captions)
    tokenize = open_tokenizer(options.tokenizer)
    name = options.name or options.folder.name
    files = write(listed, options.folder, name, tokenize, reencode=options.reencode)
    print(f"wrote {len(listed)} pictures to {files} files in {options.folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="write_tfrecords.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", type=Path, help=".jsonl file, or folder of pictures")
    parser.add_argument("folder", type=Path, help="new folder for the files")
    parser.add_argument("--name", default="", help="beginning of the files' names (default: the folder's)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json for captions of text")
    parser.add_argument("--no-captions", action="store_true", help="leave captions out")
    parser.add_argument(
        "--reencode", action="store_true", help=f"JPEG of quality {QUALITY} instead of the files"
    )
    return parser


if __name__ == "__main__":
    run_command(main)
