"""Encoding: pictures to their most informative latent variates, in files that `decoding` reads."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data import Examples, PictureSet
from dioscuri.engine import Array, Batch
from dioscuri.families.latent_models.bounds import group_name
from dioscuri.families.latent_models.conditions import examples, latents
from dioscuri.families.latent_models.modes.divergence import as_floats, variate_masks
from dioscuri.families.latent_models.modes.encodings import (
    FORMAT,
    EncodingWriter,
    architecture_hash,
    latent_shapes,
)
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.outputs.examples import N_ON_SHEET, batches, chosen_indices, chosen_split
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid, visible
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.wording import noun

SHARD_BYTES = 64 << 20


def encode(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `latents/encodings_seed_<seed>/`, with a sheet of pictures above their decoded encodings."""
    options = context.hparams.synthesis
    masks, origin = variate_masks(context, plan, checkpoint, "encoding")
    pictures = chosen_split(context, "train")
    indices = chosen_indices(context, pictures)
    output = output_folder(
        context,
        checkpoint,
        context.directory.latents,
        f"encodings_seed_{context.hparams.run.seed}",
        split=options.split or "train",
        masks=origin,
    )
    writer = EncodingWriter(output.path, _header(context, plan, checkpoint, masks, pictures, len(indices)))
    first = writer.n_batches
    if first:
        context.say(f"continuing after {writer.n_pictures} {noun(context.hparams)} already encoded")
    per_shard = _batches_a_shard(plan, masks, options.batch_size)
    held: list[Mapping[str, Array]] = []
    todo = batches(context, pictures, indices[first * options.batch_size :], "encoding")
    for index, batch in enumerate(todo, start=first):
        results = context.engine.run(
            "encode",
            examples(batch),
            ema=options.load_ema_weights,
            step=index,
            masks=as_floats(masks),
        )
        if index == first:
            _sheet(context, output.path, plan, batch, results, masks)
        held.append(_shard_arrays(plan, batch, results, masks))
        if len(held) == per_shard:
            _write(context, writer, pictures, held)
            held = []
    if held:
        _write(context, writer, pictures, held)
    if context.writes:
        writer.finish()
        n_encoded, n_variates = sum(int(mask.sum()) for mask in masks), sum(map(len, masks))
        context.say(
            f"{writer.n_pictures} {noun(context.hparams)}, {n_encoded} of {n_variates} variates kept, in "
            f"{output.path}"
        )
    output.finish(writer.n_pictures)


def _header(
    context: Context,
    plan: LatentPlan,
    checkpoint: Checkpoint,
    masks: Sequence[Array],
    pictures: Examples,
    n: int,
) -> dict[str, Any]:
    """Everything that the encodings depend on."""
    options, hparams = context.hparams.synthesis, context.hparams
    captions = pictures.captions if isinstance(pictures, PictureSet) else None
    weights = "ema" if options.load_ema_weights else "model"
    return {
        "format": FORMAT,
        "architecture": architecture_hash(plan),
        "latent_shapes": latent_shapes(plan),
        "weights": weights,
        "checkpoint_step": checkpoint.step,
        "weights_sha256": checkpoint.info["files"][f"{weights}.safetensors"]["sha256"],
        "source": pictures.name,
        "n_pictures": n,
        "picture_shape": list(plan.image_shape),
        "caption_length": 0 if captions is None else captions.shape[1],
        "batch_size": options.batch_size,
        "seed": hparams.run.seed,
        "scale": "standard deviation",
        "variate_masks_quantile": options.variate_masks_quantile,
        "kept": {group_name(g): np.flatnonzero(mask).tolist() for g, mask in enumerate(masks) if mask.any()},
    }


def _batches_a_shard(plan: LatentPlan, masks: Sequence[Array], batch_size: int) -> int:
    """Number of batches in a shard of about `SHARD_BYTES`."""
    values = sum(
        3 * prod(block.grid) * int(mask.sum()) for block, mask in zip(plan.groups, masks, strict=True)
    )
    return max(1, SHARD_BYTES // (batch_size * max(1, 4 * values)))


def _shard_arrays(
    plan: LatentPlan, batch: Batch, results: Mapping[str, Array], masks: Sequence[Array]
) -> dict[str, Array]:
    """A batch's arrays for a shard, and the indices of its pictures."""
    valid = batch["valid"]
    arrays = {"index": batch["index"][valid], "image": visible(batch["image"], plan)[valid]}
    arrays |= {name: batch[name][valid] for name in ("label", "caption") if name in batch}
    for group, mask in enumerate(masks):
        if mask.any():
            for kind in ("mean", "std", "z"):
                values = results[f"{kind}.{group}"][valid][..., mask]
                arrays[f"{kind}.{group_name(group)}"] = values.astype(np.float32)
    return arrays


def _write(
    context: Context, writer: EncodingWriter, pictures: Examples, held: Sequence[Mapping[str, Array]]
) -> None:
    if not context.writes:
        return
    arrays = {name: np.concatenate([rows[name] for rows in held]) for name in held[0]}
    keys = [pictures.keys[int(index)] for index in arrays.pop("index")]
    writer.add(keys, arrays, len(held))


def _sheet(
    context: Context,
    folder: Path,
    plan: LatentPlan,
    batch: Batch,
    results: Mapping[str, Array],
    masks: Sequence[Array],
) -> None:
    options = context.hparams.synthesis
    decoded = context.engine.run(
        "decode",
        latents(results, batch),
        temperatures=(1.0,) * len(plan.groups),
        ema=options.load_ema_weights,
        step=0,
        masks=as_floats(masks),
        output="mean",
    )["image"]
    if context.writes:
        valid = batch["valid"]
        rows = above(visible(batch["image"], plan)[valid][:N_ON_SHEET], decoded[valid][:N_ON_SHEET])
        path = save_grid(folder / "contact-sheet.png", rows, ORIGINALS)
        context.say(f"originals above what their encodings decode to: {path}")
