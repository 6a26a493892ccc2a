"""What `dioscuri describe` shows of a classifier."""

from dioscuri.families.classifier.options import HParams
from dioscuri.families.classifier.plan import make_plan, parameter_table
from dioscuri.plans.description import Description, Row, extent, label_rows, picture_rows
from dioscuri.plans.parameters import shapes


def describe(hparams: HParams) -> Description:
    """Levels of convolutions; a `UserError` names an option that does not fit."""
    data = hparams.data
    plan = make_plan(hparams)
    rows: list[Row] = [
        {"grid": extent([data.target_res // 2**n] * 2), "channels": blocks[-1][1], "blocks": len(blocks)}
        for n, blocks in enumerate(plan.blocks)
    ]
    return Description(
        shapes=shapes(parameter_table(plan)),
        facts={"classes": plan.num_classes, "features": plan.width},
        layers={"convolutions": rows},
        rows={**picture_rows(data), **label_rows(plan.num_classes)},
    )
