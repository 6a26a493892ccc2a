"""Reconstruction: test pictures through posterior and likelihood, with the bound, the
importance-weighted bound and the similarity."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.bounds import (
    BoundSum,
    importance_bound,
    importance_log_weights,
    kl_chart,
    kl_table,
    unit_of,
)
from dioscuri.families.latent_models.conditions import examples
from dioscuri.families.latent_models.modes.divergence import as_floats, variate_masks
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.metrics.similarity import NAMES, similarity_of_finite
from dioscuri.outputs.examples import N_ON_SHEET, batches, chosen_indices, chosen_split
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid, visible
from dioscuri.outputs.reports import write_report
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.wording import noun


def reconstruct(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `reconstructed/image-<i>.png` (and `target-<i>.png`), and report the negative ELBO, the
    similarity and the divergences."""
    options = context.hparams.synthesis
    masks, origin = None, None
    if options.mask_reconstruction:
        chosen, origin = variate_masks(context, plan, checkpoint, "mask_reconstruction")
        masks = as_floats(chosen)
    output = output_folder(
        context,
        checkpoint,
        context.directory.images,
        "reconstructed",
        split=options.split or "test",
        masks=origin,
    )
    pictures = chosen_split(context, "test")
    total, similarities, importance = BoundSum(), [], []
    sheet: list[tuple[Array, Array]] = []
    todo = batches(context, pictures, chosen_indices(context, pictures), "reconstruction")
    for index, batch in enumerate(todo):
        valid = batch["valid"]
        made = _reconstructed(context, examples(batch), index, masks)
        total.add(made, valid)
        target, drawn = visible(batch["image"], plan)[valid], made["image"][valid]
        similarities.append(similarity_of_finite(target, drawn, made["reconstruction"][valid]))
        if options.importance_samples:
            importance.append(made["importance"][valid])
        if sum(len(targets) for targets, _ in sheet) < N_ON_SHEET:
            sheet.append((target, drawn))
        if context.writes:
            _save(context, output.path, batch["index"][valid], target, drawn)
    results = _results(context, plan, total, np.concatenate(similarities), importance)
    if context.writes:
        folder = output.path
        write_report(context, folder, results | {"step": checkpoint.step})
        originals, others = (np.concatenate(rows)[:N_ON_SHEET] for rows in zip(*sheet, strict=True))
        path = save_grid(folder / "contact-sheet.png", above(originals, others), ORIGINALS)
        context.say(f"{noun(context.hparams)} in {folder}; originals above reconstructions: {path}")
        context.say(f"KL of every group: {kl_chart(folder / 'kl.png', plan, total.mean().kl)}")
    output.finish(results["pictures"])


def _reconstructed(
    context: Context, given: Mapping[str, Array], index: int, masks: Sequence[Array] | None
) -> dict[str, Array]:
    """What the network makes of a batch and, with importance samples, their bound `importance` (B,)."""
    options, ema = context.hparams.synthesis, context.hparams.synthesis.load_ema_weights
    made = context.engine.run(
        "reconstruct",
        given,
        ema=ema,
        step=index,
        output=options.output,
        output_temperature=options.output_temperature,
        masks=masks,
    )
    if not options.importance_samples:
        return made
    log_weights = importance_log_weights(
        context.engine, given, options.importance_samples, ema=ema, index=index, masks=masks
    )
    return made | {"importance": importance_bound(log_weights)}


def _results(
    context: Context, plan: LatentPlan, total: BoundSum, similarities: Array, importance: list[Array]
) -> dict[str, Any]:
    """Print the numbers and return them."""
    bound, unit, options = total.mean(), unit_of(plan), context.hparams.synthesis
    name = NAMES[len(plan.extent)]
    results: dict[str, Any] = {
        "unit": unit.name,
        "pictures": bound.n,
        "negative_elbo": bound.negative_elbo * unit.per_nat,
        "reconstruction": bound.reconstruction * unit.per_nat,
        "kl": [float(value) * unit.per_nat for value in bound.kl],
        name: float(similarities.mean()),
    } | unit.in_nats(bound.negative_elbo)
    context.say(
        f"{bound.n} {noun(context.hparams)}: -ELBO {unit.tell(bound.negative_elbo)} = reconstruction "
        f"{results['reconstruction']:.4f} + KL {sum(results['kl']):.4f} {unit.name}; {name.upper()} "
        f"{results[name]:.4f}{' dB' if name == 'psnr' else ''}"
    )
    if importance:
        value = float(np.concatenate(importance).mean()) * unit.per_nat
        results["importance_weighted_bound"] = value
        context.say(
            f"importance-weighted bound, {options.importance_samples} samples: {value:.4f} {unit.name}"
        )
    for line in kl_table(plan, bound.kl, context.hparams.metrics.latent_active_threshold):
        context.say(f"  {line}")
    return results


def _save(context: Context, folder: Path, indices: Array, targets: Array, drawn: Array) -> None:
    for index, target, picture in zip(indices, targets, drawn, strict=True):
        save_example(folder, f"image-{index:04d}", picture, context.hparams.data)
        if context.hparams.synthesis.save_target_in_reconstruction:
            save_example(folder, f"target-{index:04d}", target, context.hparams.data)
