"""Report of a finished tokenizer: its quality on the test pictures, and pictures."""

from typing import Any

import numpy as np

from dioscuri.context import Context
from dioscuri.data import pipeline
from dioscuri.engine import Array
from dioscuri.families.vqgan.modes.quality import QualitySum, network_inputs
from dioscuri.families.vqgan.perceptual import distance_name
from dioscuri.families.vqgan.plan import TokenizerPlan
from dioscuri.outputs.pictures import ORIGINALS, above, save_grid
from dioscuri.outputs.progress import tracked

N_RECONSTRUCTIONS = 32


def report(context: Context, plan: TokenizerPlan) -> dict[str, Any]:
    """Print and return the numbers of the engine's averaged weights, and write a sheet of reconstructions."""
    hparams, test = context.hparams, context.sets.test
    size = hparams.val.batch_size
    batches = pipeline.evaluation_batches(test, hparams, batch_size=size)
    total = QualitySum(plan.codebook_size, distance_name(context.hparams.loss))
    shown: list[tuple[Array, Array]] = []
    for index, batch in enumerate(tracked(batches, "test", -(-len(test) // size), shown=context.writes)):
        made = context.engine.run("reconstruct", network_inputs(batch), ema=True, step=index)
        total.add(batch["image"], made, batch["valid"])
        if sum(len(pictures) for pictures, _ in shown) < N_RECONSTRUCTIONS:
            shown.append((batch["image"][batch["valid"]], made["image"][batch["valid"]]))
    quality = total.mean()
    context.say(f"{quality.n} test pictures: {quality}")
    if context.writes:
        folder = context.directory.path
        originals, others = (
            np.concatenate(batches)[:N_RECONSTRUCTIONS] for batches in zip(*shown, strict=True)
        )
        path = save_grid(folder / "reconstructions.png", above(originals, others), ORIGINALS)
        context.say(f"originals above reconstructions: {path}")
    return {"test_pictures": quality.n, **quality.as_dict()}
