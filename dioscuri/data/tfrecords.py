"""TFRecord files of pictures, perhaps with captions, as DALLE-mtf and Metroplex write them.

A record is a `tf.train.Example` with `image`, the bytes of an image file, and perhaps `caption`, the token
numbers of a text. Only the records' lengths are read when files are opened, so pictures can be read in any
order; a record's checksum is verified when it is read.
"""

import io
import os
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dioscuri.data import image_files, tf_example
from dioscuri.data.crc32c import masked_crc32c
from dioscuri.data.crops import decode_cropped
from dioscuri.data.options import PATH_OPTIONS, Options, Split, matching_files
from dioscuri.data.picture_set import PictureSet
from dioscuri.data.reader import Reader
from dioscuri.errors import UserError

Array = np.ndarray

SUFFIXES = (".tfrecords", ".tfrecord")
IMAGE, CAPTION = "image", "caption"
_HEADER = struct.Struct("<QI")  # length and its checksum
_FOOTER = struct.Struct("<I")
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Record:
    """Location of a record's message."""

    path: Path
    number: int  # from 0
    start: int
    size: int

    @property
    def name(self) -> str:
        """Its name in error messages."""
        return f"{self.path}, record {self.number}"

    def read(self) -> bytes:
        """The message; `Refused` if it does not match its checksum."""
        with self.path.open("rb") as file:
            content = os.pread(file.fileno(), self.size + _FOOTER.size, self.start)
        data, footer = content[: self.size], content[self.size :]
        if len(footer) < _FOOTER.size or _FOOTER.unpack(footer)[0] != masked_crc32c(data):
            raise image_files.Refused("its checksum is wrong")
        return data

    def features(self) -> tf_example.Features:
        """The features of its message; `Refused` if it is not a `tf.train.Example`."""
        try:
            return tf_example.decode(self.read())
        except tf_example.NotAnExampleError as error:
            raise image_files.Refused(f"it is no tf.train.Example: {error}") from error


def open_tfrecords(options: Options, split: Split) -> PictureSet:
    """Open the TFRecord files of a split: a folder, a file, or those that match a pattern.

    With `data.text_seq_len`, captions are read too. A `UserError` names the file and record at fault.
    """
    data, option = options.data, PATH_OPTIONS[split]
    if data.channels not in (1, 3):
        raise UserError(f"[data] channels is {data.channels}; image files give 1 (grey) or 3 (RGB)")
    files = matching_files(data, split, SUFFIXES, noun="TFRecord files")
    records = [record for path in files for record in index(path)]
    if not records:
        raise UserError(f"[data] {option} '{getattr(data, option)}' holds no records")
    side = data.target_res

    def decode(n: int) -> Array:
        return decode_cropped(io.BytesIO(image_of(records[n])), side, data.channels, legacy=data.legacy_crop)

    pool = ThreadPoolExecutor(min(options.run.num_cpus, os.cpu_count() or 1), thread_name_prefix="decode")
    reader = Reader(
        [record.name for record in records],
        decode,
        (side, side, data.channels),
        pool,
        skip_corrupt=data.skip_corrupt,
    )
    return PictureSet(
        name=f"{files.paths[0].parent.name} ({split})",
        keys=tuple(f"{record.path.stem}_{record.number}" for record in records),
        read=reader,
        captions=captions(records, data.text_seq_len, data.padding_id, skip_corrupt=data.skip_corrupt)
        if data.text_seq_len
        else None,
        notes=files.notes,
        unreadable=reader.unreadable,
    )


def index(path: Path) -> list[Record]:
    """The records of a file, located by their lengths; a `UserError` if it is not a TFRecord file or is
    truncated."""
    records: list[Record] = []
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            at = 0
            while at < size:
                header = os.pread(file.fileno(), _HEADER.size, at)
                start = at + _HEADER.size
                length = _length(path, len(records), header)
                at = start + length + _FOOTER.size
                if at > size:
                    raise UserError(
                        f"{path}, record {len(records)}: the file ends within it: download or write it again"
                    )
                records.append(Record(path, len(records), start, length))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    return records


def _length(path: Path, number: int, header: bytes) -> int:
    where = f"{path}, record {number}"
    if number == 0 and header[:2] == _GZIP:
        raise UserError(f"{path} is compressed, which allows no random access: unpack it")
    if len(header) < _HEADER.size:
        raise UserError(f"{where}: the file ends within it: download or write it again")
    length, checksum = _HEADER.unpack(header)
    if checksum != masked_crc32c(header[:8]):
        what = "this is no TFRecord file" if number == 0 else "the file is damaged"
        raise UserError(f"{where}: the checksum of its length is wrong: {what}; download or write it again")
    return int(length)


def image_of(record: Record) -> bytes:
    """The image file of a record; `Refused` if it has none."""
    features = record.features()
    values = features.get(IMAGE, [])
    if len(values) != 1 or not isinstance(values[0], bytes):
        raise image_files.Refused(
            f"it has no feature '{IMAGE}' of one text of bytes, but {', '.join(map(repr, sorted(features)))}"
        )
    return values[0]


def captions(records: Sequence[Record], length: int, padding: int, *, skip_corrupt: bool = False) -> Array:
    """Captions' tokens int32 (N, length), truncated or padded with `padding`. A `UserError` names a record
    that has none or is damaged; with `skip_corrupt` a damaged one's row is all padding."""
    rows = np.full((len(records), length), padding, np.int32)
    for row, record in zip(rows, records, strict=True):
        try:
            values = record.features().get(CAPTION)
        except image_files.Refused as refused:
            if skip_corrupt:
                continue
            raise UserError(
                f"{record.name}: {refused}; download or write it again, or set data.skip_corrupt=True"
            ) from refused
        if values is None or not all(isinstance(v, int) and 0 <= v < 2**31 for v in values):
            raise UserError(
                f"{record.name}: it has no feature '{CAPTION}' with token numbers: set data.text_seq_len=0"
            )
        chosen = values[:length]
        row[: len(chosen)] = chosen
    return rows


def write_tfrecords(path: Path, messages: Iterable[bytes]) -> int:
    """Write messages as the records of a new file and return how many. `path` is written directly: the caller
    gives a temporary name and renames it when it is complete."""
    count = 0
    with path.open("xb") as file:
        for message in messages:
            file.write(framed(message))
            count += 1
    return count


def framed(message: bytes) -> bytes:
    """A message as a record: its length and itself, each with a checksum."""
    length = struct.pack("<Q", len(message))
    return length + _FOOTER.pack(masked_crc32c(length)) + message + _FOOTER.pack(masked_crc32c(message))
