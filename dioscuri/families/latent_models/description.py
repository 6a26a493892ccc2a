"""Levels of latents, as both families of variational autoencoders describe them."""

from dioscuri.families.latent_models.plan import LatentPlan
from dioscuri.plans.description import Row, counted, extent


def latent_facts(plan: LatentPlan) -> dict[str, int]:
    """Groups of latents, their levels and their values."""
    groups = range(len(plan.groups))
    return {
        "latent_groups": len(groups),
        "latent_levels": plan.n_levels,
        "latent_values": sum(map(plan.latent_dims, groups)),
        "values_of_an_example": plan.image_dims,
    }


def latent_levels(plan: LatentPlan) -> list[Row]:
    """A row for each grid, the smallest first; `variates` are the latents of a group at one position."""
    return counted(
        (
            {"grid": extent(block.grid), "channels": block.channels, "variates": block.variates}
            for block in plan.groups
        ),
        "latent groups",
    )
