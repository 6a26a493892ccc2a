"""Sheets of a validation, with averaged weights: samples of the prior at several temperatures, and
reconstructions from more and more latent groups."""

import numpy as np

from dioscuri.context import Context
from dioscuri.engine import Array, Batch
from dioscuri.families.latent_models.conditions import examples, guidance, order
from dioscuri.families.latent_models.exploration import masks_of
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.outputs.pictures import sample_rows, sheet, visible

N_IN_ROW, N_TEMPERATURES, N_CUTS, N_BY_CLASS = 8, 4, 6, 80


def drawn_sheets(context: Context, plan: LatentPlan, batch: Batch, step: int) -> dict[str, Array]:
    """Two sheets by tag, each uint8 (H, W, 1 or 3), and a third one of a model with classes; the noise is the
    same in every validation."""
    sheets = {
        f"{step}/Temperatures_{step}": _temperatures(context, plan),
        f"{step}/Partial_{step}": _partial(context, plan, batch),
    }
    if plan.num_classes:
        samples = draw(context, plan, (1.0,) * len(plan.groups), N_BY_CLASS)
        sheets[f"{step}/Classes_{step}"] = sheet(*sample_rows(*samples))
    return sheets


def draw(
    context: Context, plan: LatentPlan, temperatures: tuple[float, ...], n: int
) -> tuple[Array, Array | None]:
    """n examples from the prior, in batches of `N_IN_ROW`, so that the engine compiles only one shape; and
    their classes (n,), all in turn, if the model has any."""
    hparams = context.hparams
    made = [
        context.engine.run(
            "generate",
            order(hparams, plan, number * N_IN_ROW, N_IN_ROW),
            ema=True,
            step=number,
            temperatures=temperatures,
            output=hparams.synthesis.output,
            guidance_scale=guidance(hparams),
        )["image"]
        for number in range(-(-n // N_IN_ROW))
    ]
    return np.concatenate(made)[:n], order(hparams, plan, 0, n).get("label")


def reconstruct(
    context: Context,
    plan: LatentPlan,
    batch: Batch,
    *,
    ema: bool,
    step: int = 0,
    n_posterior: int | None = None,
) -> dict[str, Array]:
    """Reconstructions with the first `n_posterior` groups from the posterior (None: all). Masks are always
    given, so that the engine compiles one program for all sheets."""
    return context.engine.run(
        "reconstruct",
        examples(batch),
        ema=ema,
        step=step,
        masks=group_masks(plan, len(plan.groups) if n_posterior is None else n_posterior),
        output="sample",
    )


def temperature_name(setting: float | tuple) -> str:
    """E.g. 'temperature 0.8', '0.8, 1' for two levels, or 'linear, 0.8, 1'."""
    values = setting if isinstance(setting, tuple) else (setting,)
    return "temperature " + ", ".join(v if isinstance(v, str) else f"{v:g}" for v in values)


def cut_points(n_groups: int) -> list[int]:
    """At most `N_CUTS` numbers of groups from the posterior, from 1 to all."""
    return sorted({round(value) for value in np.linspace(1, n_groups, min(N_CUTS, n_groups))})


def group_masks(plan: LatentPlan, n_posterior: int) -> list[Array]:
    """Masks (Z,) of every group: 1 in the first `n_posterior` groups, else 0."""
    return masks_of(plan, range(n_posterior))


def groups_name(n_posterior: int, n_groups: int) -> str:
    """E.g. '3 of 12 groups'."""
    return f"{n_posterior} of {n_groups} groups"


def _temperatures(context: Context, plan: LatentPlan) -> Array:
    """One row per setting of `synthesis.temperature_settings`."""
    settings = context.hparams.synthesis.temperature_settings[:N_TEMPERATURES]
    rows = [draw(context, plan, level_temperatures(plan, setting), N_IN_ROW)[0] for setting in settings]
    return sheet(rows, [[temperature_name(setting)] for setting in settings])


def _partial(context: Context, plan: LatentPlan, batch: Batch) -> Array:
    """Originals, then one row for each number of groups from the posterior; the others are from the prior."""
    n = len(plan.groups)
    rows, captions = [visible(batch["image"], plan)[batch["valid"]][:N_IN_ROW]], [["originals"]]
    for cut in cut_points(n):
        made = reconstruct(context, plan, batch, ema=True, n_posterior=cut)["image"]
        rows.append(made[batch["valid"]][:N_IN_ROW])
        captions.append([groups_name(cut, n)])
    return sheet(rows, captions)
