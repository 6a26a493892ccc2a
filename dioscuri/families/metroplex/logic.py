"""Host logic of Metroplex and VD-VAE."""

from math import prod

from dioscuri.context import Context
from dioscuri.contract import Family
from dioscuri.errors import UserError
from dioscuri.families.latent_models.conditions import check_conditions, check_examples
from dioscuri.families.latent_models.plan import level_temperatures
from dioscuri.families.latent_models.run_logic import LatentGroupsRun
from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.plans.parameters import shapes

MAX_PARAMETERS = 10**11


def check_options(hparams: HParams) -> None:
    """Raise a `UserError` for layers that do not fit together or are too large, a
    temperature, or a baseline."""
    plan = make_plan(hparams)
    size = sum(prod(parameter.shape) for parameter in parameter_table(hparams, plan).values())
    if size > MAX_PARAMETERS:
        raise UserError(f"[model] has {size:,} parameters, more than {MAX_PARAMETERS:,}: lower its widths")
    for setting in hparams.synthesis.temperature_settings:
        level_temperatures(plan, setting)
    check_conditions(hparams)
    if hparams.data.depth > 8 and hparams.metrics.report_baselines:
        raise UserError(
            "[metrics] report_baselines counts grey levels, and 16-bit sounds have too many: set it to False"
        )
    if plan.likelihood == "absolute" and hparams.metrics.report_baselines:
        raise UserError(
            "[metrics] report_baselines compares likelihoods, but [model] likelihood 'absolute' has none: "
            "set it to False"
        )


class MetroplexRun(LatentGroupsRun):
    """See `dioscuri.contract.FamilyRun`."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, make_plan(context.hparams))


def _network_shapes(hparams: HParams) -> dict[str, tuple[int, ...]]:
    return shapes(parameter_table(hparams, make_plan(hparams)))


FAMILY = Family(
    run=MetroplexRun,
    check_options=check_options,
    network_shapes=_network_shapes,
    check_examples=check_examples,
    takes_signals=True,
)
