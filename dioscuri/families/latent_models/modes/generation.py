"""Generation: pictures from the prior, for every temperature setting."""

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.families.latent_models.sheets import temperature_name
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.wording import noun

N_IN_ROW = 16


def generate(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `n_generation_batches` batches per setting k as `setup-<k>-image-<i>.png`, and a
    sheet with one row per setting.

    An interrupted call continues after its last complete batch; batches on the sheet are sampled again.
    """
    options = context.hparams.synthesis
    output = output_folder(context, checkpoint, context.directory.images, "generated")
    settings = [level_temperatures(plan, setting) for setting in options.temperature_settings]
    n_batches, size = options.n_generation_batches, options.batch_size
    jobs = [(k, b) for k in range(len(settings)) for b in range(n_batches)]
    if output.done:
        context.say(f"continuing after {output.done * size} {noun(context.hparams)} already drawn")
    rows: list[list[Array]] = [[] for _ in settings]
    for number, (k, b) in enumerate(tracked(jobs, "generation", len(jobs), shown=context.writes)):
        if number < output.done and b * size >= N_IN_ROW:
            continue
        made = context.engine.run(
            "generate",
            {"index": np.arange(size)},
            temperatures=settings[k],
            ema=options.load_ema_weights,
            step=number,
            output=options.output,
            output_temperature=options.output_temperature,
        )["image"]
        rows[k].extend(made[: N_IN_ROW - len(rows[k])])
        if context.writes:
            for i, picture in enumerate(made, start=b * size):
                save_example(output.path, f"setup-{k}-image-{i:04d}", picture, context.hparams.data)
        output.note(max(number + 1, output.done))
    if context.writes:
        captions = [[temperature_name(setting)] for setting in options.temperature_settings]
        sheet = save_grid(output.path / "contact-sheet.png", [np.stack(row) for row in rows], captions)
        drawn = f"{len(jobs) * size} {noun(context.hparams)} in {output.path}"
        context.say(f"{drawn}; one row per temperature setting: {sheet}")
    output.finish(len(jobs))
