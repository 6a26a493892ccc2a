"""Sheets of a validation, with averaged weights: samples of the prior at several temperatures, and
reconstructions from more and more latent groups."""

import numpy as np

from dioscuri.context import Context
from dioscuri.engine import Array, Batch
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.outputs.pictures import sheet, visible

N_IN_ROW, N_TEMPERATURES, N_CUTS = 8, 4, 6


def drawn_sheets(context: Context, plan: LatentPlan, batch: Batch, step: int) -> dict[str, Array]:
    """Two sheets under their tags, each uint8 (H, W, 1 or 3); the noise is the same in every validation."""
    return {
        f"{step}/Temperatures_{step}": _temperatures(context, plan),
        f"{step}/Partial_{step}": _partial(context, plan, batch),
    }


def draw(context: Context, temperatures: tuple[float, ...], n: int, *, step: int = 0) -> Array:
    """n examples from the prior, in batches of `N_IN_ROW`, for which an engine has already compiled this."""
    made = [
        context.engine.run(
            "generate",
            {"index": np.arange(N_IN_ROW)},
            ema=True,
            step=step + number,
            temperatures=temperatures,
            output=context.hparams.synthesis.output,
        )["image"]
        for number in range(-(-n // N_IN_ROW))
    ]
    return np.concatenate(made)[:n]


def reconstruct(
    context: Context, plan: LatentPlan, batch: Batch, *, ema: bool, step: int = 0, kept: int | None = None
) -> dict[str, Array]:
    """What the mode gives, with so many groups from the posterior, None: all. Always with masks, so that an
    engine compiles one program for all sheets."""
    return context.engine.run(
        "reconstruct",
        {"image": batch["image"]},
        ema=ema,
        step=step,
        masks=group_masks(plan, len(plan.groups) if kept is None else kept),
        output="sample",
    )


def temperature_name(setting: float | tuple) -> str:
    """E.g. 'temperature 0.8', '0.8, 1' a level, or 'linear, 0.8, 1'."""
    values = setting if isinstance(setting, tuple) else (setting,)
    return "temperature " + ", ".join(v if isinstance(v, str) else f"{v:g}" for v in values)


def cut_points(n_groups: int) -> list[int]:
    """Numbers of groups to keep, from 1 to all, at most `N_CUTS`."""
    return sorted({round(value) for value in np.linspace(1, n_groups, min(N_CUTS, n_groups))})


def group_masks(plan: LatentPlan, kept: int) -> list[Array]:
    """Masks (Z,) of every group: 1 in the first `kept` groups, else 0."""
    return [np.full(block.variates, float(g < kept), np.float32) for g, block in enumerate(plan.groups)]


def groups_name(kept: int, n_groups: int) -> str:
    """E.g. '3 of 12 groups'."""
    return f"{kept} of {n_groups} groups"


def _temperatures(context: Context, plan: LatentPlan) -> Array:
    """A row a setting of `synthesis.temperature_settings`."""
    settings = context.hparams.synthesis.temperature_settings[:N_TEMPERATURES]
    rows = [draw(context, level_temperatures(plan, setting), N_IN_ROW) for setting in settings]
    return sheet(rows, [[temperature_name(setting)] for setting in settings])


def _partial(context: Context, plan: LatentPlan, batch: Batch) -> Array:
    """Originals, then a row for every number of groups that come from the posterior, the others from the
    prior."""
    n = len(plan.groups)
    rows, captions = [visible(batch["image"], plan)[batch["valid"]][:N_IN_ROW]], [["originals"]]
    for cut in cut_points(n):
        made = reconstruct(context, plan, batch, ema=True, kept=cut)["image"]
        rows.append(made[batch["valid"]][:N_IN_ROW])
        captions.append([groups_name(cut, n)])
    return sheet(rows, captions)
