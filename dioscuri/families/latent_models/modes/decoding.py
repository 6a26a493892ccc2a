"""Decoding: pictures from encodings; masked variates are sampled from the prior."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.bounds import group_name
from dioscuri.families.latent_models.modes.divergence import as_floats
from dioscuri.families.latent_models.modes.encodings import identity, read_index, read_shard
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.files import write_json
from dioscuri.outputs.examples import N_ON_SHEET
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import in_rows, save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import only_folder, output_folder
from dioscuri.outputs.wording import noun


def decode(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `decoded/image-<i>.png`, numbered in the order of the encodings, and `names.json`, the pictures'
    stable names.

    The prior's temperature is the first of `synthesis.temperature_settings`.
    """
    options = context.hparams.synthesis
    if options.encodings_path:
        source = Path(options.encodings_path)
    else:
        name = f"encodings_seed_{context.hparams.run.seed}"
        source = only_folder(context.directory.latents, name, "synthesis.encodings_path")
    index = read_index(source, plan)
    output = output_folder(
        context, checkpoint, context.directory.images, "decoded", encodings=identity(source, index)
    )
    masks = [_mask(index["header"]["kept"], group, block.variates) for group, block in enumerate(plan.groups)]
    temperatures = level_temperatures(plan, options.temperature_settings[0])
    done, names = 0, {}
    shown: list[Array] = []
    for shard in tracked(index["shards"], "decoding", len(index["shards"]), shown=context.writes):
        arrays = read_shard(source, shard)
        for start in range(0, len(shard["keys"]), options.batch_size):
            keys = shard["keys"][start : start + options.batch_size]
            pictures = context.engine.run(
                "decode",
                _latents(plan, arrays, masks, start, options.batch_size),
                temperatures=temperatures,
                ema=options.load_ema_weights,
                step=done,
                masks=as_floats(masks),
                output=options.output,
                output_temperature=options.output_temperature,
            )["image"][: len(keys)]
            shown.extend(pictures[: N_ON_SHEET - len(shown)])
            for i, (key, picture) in enumerate(zip(keys, pictures, strict=True), start=done):
                names[f"image-{i:04d}"] = key
                if context.writes:
                    save_example(output.path, f"image-{i:04d}", picture, context.hparams.data)
            done += len(keys)
    if context.writes:
        write_json(output.path / "names.json", names)
        sheet = save_grid(output.path / "contact-sheet.png", in_rows(np.stack(shown)))
        context.say(f"{done} {noun(context.hparams)} in {output.path}; the first of them: {sheet}")
    output.finish(done)


def _mask(encoded: Mapping[str, Any], group: int, variates: int) -> Array:
    mask = np.zeros(variates, bool)
    mask[encoded.get(group_name(group), [])] = True
    return mask


def _latents(
    plan: LatentPlan, arrays: Mapping[str, Array], masks: list[Array], start: int, batch_size: int
) -> dict[str, Array]:
    """`z.<l>` (B, H, W, Z) of pictures from `start` on, zero for variates and pictures that do not exist, and
    with classes `label` (B,)."""
    latents = {}
    for group, mask in enumerate(masks):
        z = np.zeros(plan.latent_shape(group, batch_size), np.float32)
        if mask.any():
            stored = arrays[f"z.{group_name(group)}"][start : start + batch_size]
            z[: len(stored), ..., mask] = stored
        latents[f"z.{group}"] = z
    if "label" in arrays:
        labels = arrays["label"][start : start + batch_size]
        latents["label"] = labels[np.arange(batch_size) % len(labels)]
    return latents
