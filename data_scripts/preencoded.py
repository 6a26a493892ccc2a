"""Token shards and encoded captions from webdataset tar files pre-encoded by open-muse.

python data_scripts/preencoded.py TARS TOKENS --tokenizer torch_impl/logs-NAME --member vqgan-f16.pth
                                  [--texts clip.pth --null NULL.safetensors]

An example's members share a name up to the first dot. `--member` is the suffix of the member with the tokens,
integers (L,), `--texts` that of the member with its caption's states (S, E); `attention_mask_length` in
`json` is the number of real ones. `null.safetensors` of data_scripts/encode_text.py is the empty text. The
shards name the run of the tokenizer that made the tokens.
"""

import argparse
import io
import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dioscuri.checkpoint.makers import named
from dioscuri.data.listing import folder_files
from dioscuri.data.tar_files import Example, Member, examples
from dioscuri.data.texts import TextWriter, read_null
from dioscuri.data.tokens import TEXTS, TokenWriter
from dioscuri.errors import UserError, run_command
from dioscuri.families.vqgan.trained import open_tokenizer

Array = np.ndarray
BATCH = 256


def convert(tars: Path, target: Path, tokenizer: Path, member: str, texts: str, null: Path | None) -> int:
    """Write the shards; return the number of pictures. A `UserError` names a member that does not fit."""
    trained = open_tokenizer(tokenizer)
    shape, codes = trained.plan.token_shape, trained.plan.codebook_size
    encoded = _examples(tars)
    writer = TokenWriter(
        target,
        {"grid": list(shape), "codebook_size": codes, "tokenizer": named(trained), "source": str(tars)},
        [example.key for example in encoded],
    )
    for rows in _batches(encoded[writer.n_pictures :], "tokens"):
        writer.add(np.stack([_tokens(example, member, shape, codes) for example in rows]))
    writer.finish()
    if null is not None:
        _write_texts(encoded, target / TEXTS, texts, null)
    return writer.n_pictures


def _examples(tars: Path) -> list[Example]:
    paths = folder_files(tars, (".tar",)) if tars.is_dir() else [tars]
    members = [example for path in paths for example in examples(path)]
    if not members:
        raise UserError(f"{tars} holds no tar file with examples")
    return members


def _batches(encoded: Sequence[Example], what: str) -> Any:
    starts = range(0, len(encoded), BATCH)
    return (encoded[first : first + BATCH] for first in tqdm(starts, what, unit="batch", disable=None))


def _tokens(example: Example, member: str, shape: tuple[int, ...], codes: int) -> Array:
    tokens = _load(example, member)
    if tokens.dtype.kind not in "iu" or tokens.size != prod(shape):
        raise UserError(
            f"'{example.key}': {member} holds {tokens.dtype} {tokens.shape}, but the tokenizer makes "
            f"{prod(shape)} integers"
        )
    if tokens.min() < 0 or tokens.max() >= codes:
        raise UserError(f"'{example.key}': {tokens.max()} is not a code of the tokenizer, 0..{codes - 1}")
    return tokens.reshape(shape)


def _write_texts(encoded: Sequence[Example], folder: Path, member: str, null: Path) -> None:
    empty = {name: array for name, array in read_null(null).items() if name in ("text", "text_mask")}
    shape = empty["text"].shape[1:]
    writer = TextWriter(folder, {"encoder": member}, [example.key for example in encoded], empty)
    for rows in _batches(encoded[writer.n_texts :], "texts"):
        states = [_load(example, member) for example in rows]
        for example, array in zip(rows, states, strict=True):
            if array.dtype.kind != "f" or array.shape != shape:
                raise UserError(
                    f"'{example.key}': {member} holds {array.dtype} {array.shape}, {null} has {shape}"
                )
        real = np.array([_length(example, shape[0]) for example in rows])
        writer.add({"text": np.stack(states), "text_mask": np.arange(shape[0]) < real[:, None]})
    writer.finish()


def _load(example: Example, ending: str) -> Array:
    """The tensor of the member with this suffix; nothing but weights is unpickled."""
    content = _member(example, ending.lower()).read()
    try:
        value = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # on foreign bytes, the reader raises undocumented exceptions
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"'{example.key}': {ending} holds no tensor ({reason})") from error
    if not isinstance(value, torch.Tensor):
        raise UserError(f"'{example.key}': {ending} holds no tensor")
    return np.asarray((value.float() if value.is_floating_point() else value).numpy())


def _member(example: Example, ending: str) -> Member:
    chosen = [member for suffix, member in example.members.items() if suffix.endswith(ending)]
    if len(chosen) != 1:
        there = ", ".join(sorted(example.members))
        raise UserError(
            f"'{example.key}' has {len(chosen)} members that end in '{ending}', of which one is needed: it "
            f"has {there}"
        )
    return chosen[0]


def _length(example: Example, longest: int) -> int:
    """Number of a caption's real tokens; all if it is not recorded."""
    if "json" not in example.members:
        return longest
    try:
        return int(json.loads(example.members["json"].read()).get("attention_mask_length", longest))
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"'{example.key}': its json is damaged ({error})") from error


def main(arguments: list[str]) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="preencoded.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("tars", type=Path, help="tar file, or a folder of them")
    parser.add_argument("target", type=Path, metavar="TOKENS")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="RUN")
    parser.add_argument("--member", required=True, metavar="ENDING", help="member with the tokens")
    parser.add_argument("--texts", default="", metavar="ENDING", help="member with the encoded caption")
    parser.add_argument("--null", type=Path, metavar="FILE", help="encoded empty text")
    options = parser.parse_args(arguments)
    if bool(options.texts) != (options.null is not None):
        raise UserError("--texts and --null belong together: give both or neither")
    count = convert(
        options.tars, options.target, options.tokenizer, options.member, options.texts, options.null
    )
    print(f"wrote the tokens of {count} pictures to {options.target}")


if __name__ == "__main__":
    run_command(main)
