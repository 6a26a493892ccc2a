"""Generation: pictures from the prior, for every temperature setting."""

from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.families.latent_models.conditions import guidance, order
from dioscuri.families.latent_models.plan import LatentPlan, level_temperatures
from dioscuri.families.latent_models.sheets import temperature_name
from dioscuri.files import write_json
from dioscuri.outputs.media import save_example
from dioscuri.outputs.pictures import Captions, by_class, save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.settings import output_folder
from dioscuri.outputs.wording import noun

N_IN_ROW, N_OF_CLASSES = 16, 80


def generate(context: Context, plan: LatentPlan, checkpoint: Checkpoint) -> None:
    """Write `n_generation_batches` batches per setting k as `setup-<k>-image-<i>.png`, and a
    sheet with one row per setting. With classes, the sheet has a row per class and setting, and
    `labels.json` has the class of each picture.

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
    most = N_OF_CLASSES if plan.num_classes else N_IN_ROW
    for number, (k, b) in enumerate(tracked(jobs, "generation", len(jobs), shown=context.writes)):
        if number < output.done and b * size >= most:
            continue
        made = context.engine.run(
            "generate",
            order(context.hparams, plan, b * size, size),
            temperatures=settings[k],
            ema=options.load_ema_weights,
            step=number,
            output=options.output,
            output_temperature=options.output_temperature,
            guidance_scale=guidance(context.hparams),
        )["image"]
        rows[k].extend(made[: most - len(rows[k])])
        if context.writes:
            for i, picture in enumerate(made, start=b * size):
                save_example(output.path, _stem(k, i), picture, context.hparams.data)
        output.note(max(number + 1, output.done))
    if context.writes:
        labels = order(context.hparams, plan, 0, n_batches * size).get("label")
        if labels is not None:
            names = {_stem(k, i): int(c) for k in range(len(settings)) for i, c in enumerate(labels)}
            write_json(output.path / "labels.json", names)
        sheet = save_grid(output.path / "contact-sheet.png", *_sheet(options, rows, labels))
        drawn = f"{len(jobs) * size} {noun(context.hparams)} in {output.path}"
        context.say(f"{drawn}; one row per temperature setting: {sheet}")
    output.finish(len(jobs))


def _stem(setting: int, i: int) -> str:
    return f"setup-{setting}-image-{i:04d}"


def _sheet(options: Any, rows: list[list[Array]], labels: Array | None) -> tuple[list[Array], Captions]:
    """Rows and captions: a row a setting or, with classes, a row a class of every setting."""
    names = [temperature_name(setting) for setting in options.temperature_settings]
    if labels is None:
        return [np.stack(row) for row in rows], [[name] for name in names]
    all_rows: list[Array] = []
    captions: list[list[str]] = []
    for name, row in zip(names, rows, strict=True):
        of_setting, texts = by_class(np.stack(row), labels[: len(row)])
        all_rows += of_setting
        captions += [[f"{name}: {text[0]}", *text[1:]] if text else [] for text in texts]
    return all_rows, captions
