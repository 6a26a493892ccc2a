"""Divergence statistics: the information in every latent variate, and masks of the most informative ones."""

import hashlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.numpy_files import Damaged, member_names, read_member
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.latent_models.bounds import LN2, group_name, unit_of
from dioscuri.families.latent_models.conditions import examples
from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.files import read_json, replacing, write_json
from dioscuri.outputs.examples import batches
from dioscuri.outputs.settings import origin, output_folder, settings_in

FILE = "div_stats"


def divergence_statistics(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `latents/div_stats/div_stats.npz` and `.json`, the bits per latent element of every variate over
    training pictures, and a chart.

    The archive has one float32 array (Z,) per latent group, named after its block, since groups may differ in
    width. The pictures are a fixed random fraction, `synthesis.div_stats_subset_ratio`, of the training set.
    """
    options = context.hparams.synthesis
    output = output_folder(context, checkpoint, context.directory.latents, FILE, split="train")
    pictures = context.sets.train
    chosen = _share(len(pictures), options.div_stats_subset_ratio, context.hparams.run.seed)
    n, sums = 0, [np.zeros(block.variates) for block in plan.groups]
    for index, batch in enumerate(batches(context, pictures, chosen, "divergences")):
        n += int(batch["valid"].sum())
        results = context.engine.run(
            "divergence_statistics", examples(batch), ema=options.load_ema_weights, step=index
        )
        for group in range(len(plan.groups)):
            sums[group] += results[f"kl.{group}"][batch["valid"]].astype(np.float64).sum(0)
    statistics = [total / n / LN2 for total in sums]
    if context.writes:
        folder = output.path
        arrays: dict[str, Any] = {group_name(g): s.astype(np.float32) for g, s in enumerate(statistics)}
        with replacing(folder / f"{FILE}.npz") as temporary, temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        facts = {"unit": "bits per latent element", "checkpoint_step": checkpoint.step, "pictures": n}
        write_json(folder / f"{FILE}.json", facts)
        sheet = _sheet(folder / "contact-sheet.png", plan, statistics)
        context.say(
            f"divergence of {sum(map(len, statistics))} variates in {folder / FILE}.npz; chart: {sheet}"
        )
    output.finish(n)


def variate_masks(
    context: Context, plan: LatentPlan, checkpoint: Checkpoint, purpose: str
) -> tuple[list[Array], dict[str, str]]:
    """One bool array (Z,) per latent group, True for the fraction `synthesis.variate_masks_quantile` of
    variates that are kept, and the identity of the statistics behind them, for `settings.json`.

    A fraction of 1 keeps all and needs no statistics. A `UserError` if they are missing or do not fit.
    """
    quantile = context.hparams.synthesis.variate_masks_quantile
    if quantile == 1:
        return [np.ones(block.variates, bool) for block in plan.groups], {"statistics": "not needed"}
    statistics, masks = read_statistics(
        context, plan, checkpoint, purpose, "use all variates with synthesis.variate_masks_quantile=1"
    )
    threshold = np.quantile(np.concatenate(statistics), 1 - quantile)
    return [values > threshold for values in statistics], masks


def read_statistics(
    context: Context, plan: LatentPlan, checkpoint: Checkpoint, purpose: str, otherwise: str
) -> tuple[list[Array], dict[str, str]]:
    """Divergence (Z,) of every group's variates, and which file of the run says so.

    A `UserError` says what to do `otherwise` if there is none, or that it does not fit.
    """
    path = _statistics_file(context, checkpoint)
    if not path.exists():
        raise UserError(
            f"{purpose} needs divergence statistics and {path} does not exist: run "
            f"synthesis.synthesis_mode=div_stats first, or {otherwise}"
        )
    facts = read_json(path.with_suffix(".json"), "divergence statistics")
    measured = facts.get("checkpoint_step") if isinstance(facts, dict) else None
    if measured != checkpoint.step:
        context.say(f"note: {path} is of step {measured}, the checkpoint of step {checkpoint.step}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = str(path.relative_to(context.directory.path))
    return _read(path, plan), {"statistics": name, "sha256": digest}


def _statistics_file(context: Context, checkpoint: Checkpoint) -> Path:
    """Statistics of this checkpoint's weights over the most pictures; else those of other weights, or those
    at the place where version 0.1.0 wrote them."""
    latents = context.directory.latents
    weights = origin(context, checkpoint, averaged=context.hparams.synthesis.load_ema_weights)["checkpoint"]
    files = sorted(latents.glob(f"{FILE}*/{FILE}.npz"))
    fitting = [path for path in files if settings_in(path.parent).get("checkpoint") == weights]
    return max(fitting or files, key=_n_pictures, default=latents / f"{FILE}.npz")


def _n_pictures(path: Path) -> int:
    facts = read_json(path.with_suffix(".json"), "divergence statistics")
    n = facts.get("pictures") if isinstance(facts, dict) else None
    return n if isinstance(n, int) else 0


def as_floats(masks: Sequence[Array]) -> list[Array]:
    """Masks for an engine: 0 and 1 in float32."""
    return [mask.astype(np.float32) for mask in masks]


def _read(path: Path, plan: LatentPlan) -> list[Array]:
    try:
        arrays = {name: read_member(path, name) for name in member_names(path)}
    except (Damaged, KeyError) as error:
        raise UserError(
            f"{path} is damaged ({error}): run synthesis.synthesis_mode=div_stats again"
        ) from error
    expected = {group_name(group): (block.variates,) for group, block in enumerate(plan.groups)}
    if {name: array.shape for name, array in arrays.items()} != expected:
        raise UserError(f"{path} has another architecture: run synthesis.synthesis_mode=div_stats again")
    return [arrays[name] for name in expected]


def _share(n_pictures: int, ratio: float, seed: int) -> Array:
    """Sorted indices of a random fraction of the pictures, at least one."""
    n = max(1, round(ratio * n_pictures))
    return np.sort(np.random.default_rng(seed).permutation(n_pictures)[:n])


def _sheet(path: Path, plan: LatentPlan, statistics: list[Array]) -> Path:
    """Chart of every variate's divergence, sorted within its group, above a bar chart of the groups'."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - most of a second to import, for charts only

    widest = max(map(len, statistics))
    table = np.full((widest, len(statistics)), np.nan)
    for group, values in enumerate(statistics):
        table[: len(values), group] = np.sort(values)[::-1]
    totals = np.array([s.sum() * prod(plan.groups[g].grid) * LN2 for g, s in enumerate(statistics)])
    figure = Figure(figsize=(max(6.0, 0.22 * len(statistics)), 6.0), dpi=120, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    image = upper.imshow(table, aspect="auto", interpolation="nearest", origin="lower")
    figure.colorbar(image, ax=upper, label="bits per latent element")
    upper.set_ylabel("variates, sorted")
    lower.bar(range(len(totals)), totals * unit_of(plan).per_nat)
    lower.set_ylabel(f"KL, {unit_of(plan).name}")
    lower.set_xlabel("latent group")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
