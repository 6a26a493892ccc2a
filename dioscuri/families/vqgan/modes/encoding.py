"""Encoding: pictures to token shards, for training priors and for `decoding`."""

from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data import Examples
from dioscuri.data.tokens import TokenWriter
from dioscuri.engine import Array, Batch
from dioscuri.errors import UserError
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.hparams.archive import to_json
from dioscuri.outputs.examples import N_ON_SHEET, batches, chosen_indices, chosen_split
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid
from dioscuri.outputs.settings import OutputFolder, given_folder, only_folder, output_folder
from dioscuri.plans.description import extent


def encode(context: Context, plan: TokenizerPlan, checkpoint: Checkpoint) -> None:
    """Write `latents/tokens_<split>/` or `synthesis.tokens_path`, and a sheet of pictures above their decoded
    tokens. An interrupted encoding continues."""
    pictures = chosen_split(context, "train")
    indices = chosen_indices(context, pictures)
    write_tokens(context, plan, checkpoint, tokenizer_entry(context, checkpoint), pictures, indices)


def write_tokens(
    context: Context,
    plan: Any,
    checkpoint: Checkpoint,
    maker: dict[str, Any],
    pictures: Examples,
    indices: Array,
) -> None:
    """Encode the pictures at `indices`. `maker` identifies the tokenizer, `plan` has its `token_shape`
    and `codebook_size`."""
    output = _output(context, checkpoint, maker, len(indices))
    folder = output.path
    labels = None if pictures.labels is None else np.asarray(pictures.labels)[indices]
    keys = [pictures.keys[int(index)] for index in indices]
    writer = TokenWriter(folder, _header(context, plan, maker, pictures), keys, labels)
    if writer.n_pictures:
        context.say(f"continuing after {writer.n_pictures} pictures already encoded")
    todo = batches(context, pictures, indices[writer.n_pictures :], "encoding")
    for index, batch in enumerate(todo):
        results = context.engine.run(
            "encode", {"image": batch["image"]}, ema=context.hparams.synthesis.load_ema_weights, step=index
        )["tokens"]
        if index == 0:
            _sheet(context, folder, batch, results)
        if context.writes:
            _check(batch, pictures)
            writer.add(results[batch["valid"]].reshape(-1, *plan.token_shape))
    if context.writes:
        writer.finish()
        context.say(f"{writer.n_pictures} pictures as {extent(plan.token_shape)} tokens in {folder}")
    output.finish(len(indices))


def tokenizer_entry(context: Context, checkpoint: Checkpoint) -> dict[str, Any]:
    """The identity of a tokenizer, its weights, for the header of its tokens."""
    hparams = context.hparams
    weights = "ema" if hparams.synthesis.load_ema_weights else "model"
    return {
        "sha256": checkpoint.info["files"][f"{weights}.safetensors"]["sha256"],
        "run": hparams.run.name,
        "weights": weights,
        "step": checkpoint.step,
        "options": to_json(hparams)["model"],
    }


def tokens_to_read(context: Context) -> Path:
    """`synthesis.tokens_path`, or the tokens of a split that the run has encoded."""
    options = context.hparams.synthesis
    if options.tokens_path:
        return Path(options.tokens_path)
    name = f"tokens_{options.split or 'train'}"
    return only_folder(context.directory.latents, name, "synthesis.tokens_path")


def _output(context: Context, checkpoint: Checkpoint, maker: dict[str, Any], n: int) -> OutputFolder:
    """The folder to write. Tokens depend on few options; the batch size, for instance, does not matter."""
    options = context.hparams.synthesis
    split = options.split or "train"
    given = {"matters": ("load_ema_weights",), "split": split, "pictures": n, "tokenizer": maker["sha256"]}
    if options.tokens_path:
        return given_folder(context, checkpoint, Path(options.tokens_path), "tokens_path", **given)
    return output_folder(context, checkpoint, context.directory.latents, f"tokens_{split}", **given)


def _header(context: Context, plan: Any, maker: dict[str, Any], pictures: Examples) -> dict[str, Any]:
    """Everything that the tokens depend on."""
    options = context.hparams.synthesis
    return {
        "grid": list(plan.token_shape),
        "codebook_size": plan.codebook_size,
        "tokenizer": maker,
        "source": pictures.name,
        **({"classes": list(pictures.classes)} if pictures.classes else {}),
        "split": options.split or "train",
    }


def _check(batch: Batch, pictures: Examples) -> None:
    """Raise a `UserError` if a picture of the batch could not be read."""
    unread = sorted(set(pictures.unreadable) & set(batch["index"].tolist()))
    if unread:
        raise UserError(f"[data] '{pictures.keys[unread[0]]}' cannot be read: remove it, then encode again")


def _sheet(context: Context, folder: Path, batch: Batch, results: Array) -> None:
    given = {"tokens": results, **({"text": batch["text"]} if "text" in batch else {})}
    decoded = context.engine.run("decode", given, ema=context.hparams.synthesis.load_ema_weights, step=0)[
        "image"
    ]
    if context.writes:
        originals, others = (array[batch["valid"]][:N_ON_SHEET] for array in (batch["image"], decoded))
        path = save_grid(folder / "contact-sheet.png", above(originals, others), ORIGINALS)
        context.say(f"originals above what their tokens decode to: {path}")
