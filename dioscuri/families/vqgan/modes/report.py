"""What a finished tokenizer tells: how good it is on the test pictures, and pictures to look at."""

import numpy as np

from dioscuri.context import Context
from dioscuri.data import pipeline
from dioscuri.engine import Array
from dioscuri.families.vqgan.modes.quality import QualitySum
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.outputs.pictures import above, save_grid
from dioscuri.outputs.progress import tracked
from dioscuri.outputs.reports import write_report

N_RECONSTRUCTIONS = 32


def report(context: Context, plan: TokenizerPlan, step: int) -> None:
    """Print and write `report.json` and `reconstructions.png` for the checkpoint of `step` batches, which the
    engine holds; averaged weights."""
    hparams, test = context.hparams, context.sets.test
    size = hparams.val.batch_size
    batches = pipeline.evaluation_batches(test, hparams, batch_size=size)
    total = QualitySum(plan.codebook_size)
    shown: list[tuple[Array, Array]] = []
    for index, batch in enumerate(tracked(batches, "test", -(-len(test) // size), shown=context.writes)):
        made = context.engine.run("reconstruct", {"image": batch["image"]}, ema=True, step=index)
        total.add(batch["image"], made, batch["valid"])
        if sum(len(pictures) for pictures, _ in shown) < N_RECONSTRUCTIONS:
            shown.append((batch["image"][batch["valid"]], made["image"][batch["valid"]]))
    quality = total.mean()
    context.say(f"{quality.n} test pictures: {quality}")
    if context.writes:
        folder = context.directory.path
        results = {"step": step, "test_pictures": quality.n, **quality.as_dict()}
        write_report(context, folder, results)
        originals, others = (np.concatenate(part)[:N_RECONSTRUCTIONS] for part in zip(*shown, strict=True))
        path = save_grid(folder / "reconstructions.png", above(originals, others))
        context.say(f"originals above reconstructions: {path}")
