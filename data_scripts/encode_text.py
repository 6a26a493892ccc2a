"""Encode captions or prompts once, with a CLIP or T5 encoder, into shards that both twins read.

python data_scripts/encode_text.py CAPTIONS FOLDER --encoder DIR_OR_HUB_ID --length 77 --pooled
python data_scripts/encode_text.py CAPTIONS --tokens TOKENS --encoder DIR_OR_HUB_ID --length 77

The first form writes prompts for `synthesis.texts_path`. The second writes TOKENS/texts, with a caption for
every picture of the token shards in TOKENS; an interrupted run continues.
"""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from dioscuri.data.captions import N_MICRO, Caption, read_captions
from dioscuri.data.shards import Shards
from dioscuri.data.text_encoder import TextEncoder
from dioscuri.data.texts import TextWriter
from dioscuri.data.tokens import TEXTS, WHAT
from dioscuri.errors import UserError, run_command


def encode(encoder: TextEncoder, captions: dict[str, Caption], folder: Path, micro: bool, batch: int) -> None:
    """Write all texts in order, after those already written."""
    keys, texts = list(captions), [caption.text for caption in captions.values()]
    header = {
        "encoder": encoder.name,
        "layer": encoder.layer,
        "captions": hashlib.sha256("\0".join([*keys, *texts]).encode()).hexdigest(),
    }
    writer = TextWriter(folder, header, keys, encoder([""]), micro=micro)
    for first in tqdm(range(writer.n_texts, len(keys), batch), "texts", unit="batch"):
        chosen = slice(first, first + batch)
        arrays = encoder(texts[chosen])
        if micro:
            rows = [caption.micro for caption in list(captions.values())[chosen]]
            arrays["micro"] = np.array(rows, np.float32)
        writer.add(arrays)
    writer.finish()


def with_micro(captions: dict[str, Caption], given: tuple[float, ...] | None) -> dict[str, Caption]:
    """Captions, all or none of which have the five numbers; a `UserError` if only some lack them."""
    if given is None and all(caption.micro is None for caption in captions.values()):
        return captions
    captions_with_micro = {
        key: replace(caption, micro=caption.micro or given) for key, caption in captions.items()
    }
    if lacking := [key for key, caption in captions_with_micro.items() if caption.micro is None]:
        raise UserError(
            f"caption '{lacking[0]}' and {len(lacking) - 1} more have no \"micro\": add it or give --micro"
        )
    return captions_with_micro


def in_order(captions: dict[str, Caption], keys: Sequence[str], source: Path) -> dict[str, Caption]:
    """The captions of these pictures; a `UserError` if one has none."""
    if lacking := [key for key in keys if key not in captions]:
        raise UserError(
            f"captions {source}: {len(lacking)} of {len(keys)} pictures have none, as '{lacking[0]}'"
        )
    return {key: captions[key] for key in keys}


def main(arguments: list[str]) -> None:
    """Encode the captions of one file or folder; raises `UserError`."""
    options = _parser().parse_args(arguments)
    if (options.folder is None) == (options.tokens is None):
        raise UserError("give either FOLDER or --tokens TOKENS")
    captions, folder = read_captions(options.captions, options.resolution), options.folder
    if options.tokens is not None:
        keys = Shards(options.tokens, WHAT).keys
        captions, folder = in_order(captions, keys, options.captions), options.tokens / TEXTS
    if not captions:
        raise UserError(f"{options.captions} holds no captions")
    if several := sum(caption.left_out > 0 for caption in captions.values()):
        print(
            f"note: {several} of {len(captions)} pictures have several captions: the first is encoded; to "
            "train on all of them, train on the pictures, with data.text_encoder_path"
        )
    captions = with_micro(captions, options.micro)
    encoder = TextEncoder(
        options.encoder,
        length=options.length,
        layer=options.layer,
        pooled=options.pooled,
        last=options.decoder_text,
        device=options.device,
    )
    micro = next(iter(captions.values())).micro is not None
    encode(encoder, captions, folder, micro, options.batch_size)
    print(f"wrote {len(captions)} texts to {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="encode_text.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("captions", type=Path, help="text file, .jsonl, tar file or folder of tar files")
    parser.add_argument("folder", type=Path, nargs="?", help="where prompts are written")
    parser.add_argument("--tokens", type=Path, help="token shards whose pictures the captions tell of")
    parser.add_argument("--encoder", required=True, help="folder or hub id of a CLIP or T5 model")
    parser.add_argument("--length", type=_positive, required=True, help="tokens of every text")
    parser.add_argument("--layer", type=int, default=-1, help="hidden state, from the end (default -1)")
    parser.add_argument("--pooled", action="store_true", help="CLIP's projected embedding, too")
    parser.add_argument(
        "--decoder-text", action="store_true", help="the last state, too, for a tokenizer that reads texts"
    )
    parser.add_argument("--micro", type=_micro, help="width,height,top,left,score of captions without")
    parser.add_argument(
        "--resolution",
        type=_positive,
        default=0,
        help="side of the pictures: micro-conditions from tars' json",
    )
    parser.add_argument("--batch-size", type=_positive, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _micro(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if len(numbers) != N_MICRO:
        raise argparse.ArgumentTypeError(f"{text!r} are not {N_MICRO} numbers")
    return numbers


if __name__ == "__main__":
    run_command(main)
