"""Generation: pictures from the prior, for every temperature setting."""

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.sampling_record import record_sampling

N_IN_ROW = 16


def generate(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `n_generation_batches` batches a setting k as `setup-<k>-image-<i>.png`, `sampling.json`
    and a sheet, a row a setting."""
    options = context.hparams.synthesis
    folder = context.directory.images / "generated"
    settings = [level_temperatures(plan, setting) for setting in options.temperature_settings]
    n_batches = options.n_generation_batches
    jobs = [(k, b) for k in range(len(settings)) for b in range(n_batches)]
    rows: list[list[Array]] = [[] for _ in settings]
    for k, b in tracked(jobs, "generation", len(jobs), shown=context.writes):
        made = context.engine.run(
            "generate",
            {"index": np.arange(options.batch_size)},
            temperatures=settings[k],
            ema=options.load_ema_weights,
            step=k * n_batches + b,
            output=options.output,
            output_temperature=options.output_temperature,
        )["image"]
        rows[k].extend(made[: N_IN_ROW - len(rows[k])])
        if context.writes:
            for i, picture in enumerate(made):
                stem = f"setup-{k}-image-{b * options.batch_size + i:04d}"
                save_example(folder, stem, picture, context.hparams.data)
    if context.writes:
        record_sampling(context, checkpoint, folder)
        sheet = save_grid(folder / "contact-sheet.png", [np.stack(row) for row in rows])
        context.say(
            f"{len(jobs) * options.batch_size} pictures in {folder}; a row a temperature setting: {sheet}"
        )
