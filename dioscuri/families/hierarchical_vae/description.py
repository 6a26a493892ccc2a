"""What `dioscuri describe` shows of a hierarchical VAE."""

from dioscuri.families.hierarchical_vae.initialisation import parameter_table
from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.description import latent_facts, latent_levels
from dioscuri.plans.description import Description, Row, counted, extent, label_rows, picture_rows


def describe(hparams: HParams) -> Description:
    """Levels of both paths; a `UserError` names an option that does not fit."""
    plan = make_plan(hparams)
    up: list[Row] = [{"grid": extent([b.resolution] * 2), "channels": b.channels} for b in plan.up]
    return Description(
        shapes={name: parameter.shape for name, parameter in parameter_table(plan).items()},
        facts=latent_facts(plan),
        layers={"bottom-up": counted(up, "blocks"), "top-down": latent_levels(plan)},
        rows={
            **picture_rows(hparams.data, plan.extent),
            **label_rows(plan.num_classes),
        },
    )
