"""Partial reconstruction: the first latent groups from the posterior, all others from the prior (VD-VAE,
figure 4)."""

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.families.latent_models.conditions import examples, latents
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.families.latent_models.sheets import cut_points, group_masks, groups_name
from dioscuri.outputs.examples import batches, chosen_indices, chosen_split
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import save_grid, visible
from dioscuri.outputs.settings import output_folder

N_PICTURES = 8


def reconstruct_partially(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `partial/groups-<k>-image-<i>.png`, where k groups come from the posterior, and a sheet:
    originals, then a row for every k.

    The prior's temperature is the first of `synthesis.temperature_settings`.
    """
    options = context.hparams.synthesis
    split = options.split or "test"
    output = output_folder(context, checkpoint, context.directory.images, "partial", split=split)
    temperatures = level_temperatures(plan, options.temperature_settings[0])
    pictures = chosen_split(context, "test")
    indices = chosen_indices(context, pictures)[:N_PICTURES]
    batch = next(iter(batches(context, pictures, indices, "partial reconstruction")))
    results = context.engine.run("encode", examples(batch), ema=options.load_ema_weights, step=0)
    encoded = latents(results, batch)
    valid = batch["valid"]
    n = len(plan.groups)
    rows, captions = [visible(batch["image"], plan)[valid]], [["originals"]]
    for cut in cut_points(n):
        made = context.engine.run(
            "decode",
            encoded,
            temperatures=temperatures,
            ema=options.load_ema_weights,
            step=cut,
            masks=group_masks(plan, cut),
            output=options.output,
            output_temperature=options.output_temperature,
        )["image"][valid]
        rows.append(made)
        captions.append([groups_name(cut, n)])
        for i, picture in enumerate(made):
            if context.writes:
                save_example(output.path, f"groups-{cut:03d}-image-{i:04d}", picture, context.hparams.data)
    if context.writes:
        sheet = save_grid(output.path / "contact-sheet.png", rows, captions)
        context.say(f"originals, then reconstructions from more and more latent groups: {sheet}")
    output.finish(len(rows[0]))
