"""Descriptions of latent levels, shared by both families of variational autoencoders."""

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
    } | ({"classes": plan.num_classes} if plan.num_classes else {})


def latent_levels(plan: LatentPlan) -> list[Row]:
    """A row per grid, smallest first; `variates` are a group's latents at one position."""
    return counted(
        (
            {"grid": extent(block.grid), "channels": block.channels, "variates": block.variates}
            for block in plan.groups
        ),
        "latent groups",
    )
