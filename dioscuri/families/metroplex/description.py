"""What `dioscuri describe` shows of Metroplex and VD-VAE."""

from dioscuri.families.latent_models.description import latent_facts, latent_levels
from dioscuri.families.metroplex.blocks import UpBlock
from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.plans.description import Description, Row, counted, extent, label_rows, picture_rows
from dioscuri.plans.parameters import shapes


def describe(hparams: HParams) -> Description:
    """Levels of both paths; a `UserError` names an option that does not fit."""
    plan = make_plan(hparams)
    up: list[Row] = [
        {"resolution": b.resolution, "channels": b.cell.in_channels}
        if isinstance(b, UpBlock)
        else {"tokens": extent(plan.tokens), "channels": plan.width}
        for b in plan.up
    ]
    return Description(
        shapes=shapes(parameter_table(hparams, plan)),
        facts=latent_facts(plan),
        layers={"bottom-up": counted(up, "blocks"), "top-down": latent_levels(plan)},
        rows={
            **picture_rows(hparams.data, plan.extent),
            **label_rows(plan.num_classes),
        },
    )
