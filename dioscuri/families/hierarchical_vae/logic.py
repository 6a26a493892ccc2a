"""Host logic of the hierarchical VAE."""

from math import prod

from dioscuri.context import Context
from dioscuri.contract import Family
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.initialisation import parameter_table
from dioscuri.families.hierarchical_vae.options import HParams, Model
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.latent_models.conditions import check_conditions, check_examples
from dioscuri.families.latent_models.plan import level_temperatures
from dioscuri.families.latent_models.run_logic import LatentGroupsRun

MAX_CONVOLUTIONS, MAX_PARAMETERS = 10**5, 10**11


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` for layers that do not fit together, are too many or
    too large, or a temperature."""
    # First, because a plan of too many layers would take too long.
    layers = _convolutions(hparams.model)
    if layers > MAX_CONVOLUTIONS:
        raise UserError(
            f"[model] has {layers:,} convolutions, more than {MAX_CONVOLUTIONS:,}: lower n_blocks_per_res, "
            "n_blocks or n_layers"
        )
    plan = make_plan(hparams)
    size = sum(prod(parameter.shape) for parameter in parameter_table(plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its filters")
    for setting in hparams.synthesis.temperature_settings:
        level_temperatures(plan, setting)
    check_conditions(hparams)


def _convolutions(model: Model) -> int:
    """An upper bound on the number of convolutions: every cell's, and three for the rest of a block."""
    sides = (
        (model.up_n_blocks_per_res, model.up_n_blocks, model.up_n_layers),
        (model.down_n_blocks_per_res, model.down_n_blocks, model.down_n_layers),
    )
    return sum(
        (further + 1) * (cells + 3) * (inner + 2)
        for side in sides
        for further, cells, inner in zip(*side, strict=False)
    )


class HierarchicalVAERun(LatentGroupsRun):
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, make_plan(context.hparams))


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return {name: parameter.shape for name, parameter in parameter_table(make_plan(hparams)).items()}


FAMILY = Family(
    run=HierarchicalVAERun,
    check_options=check_options,
    network_shapes=_network_shapes,
    check_examples=check_examples,
)
