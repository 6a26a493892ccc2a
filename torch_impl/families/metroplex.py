"""Metroplex and VD-VAE for the engine."""

from typing import Any

from torch import nn

from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import MetroplexPlan, make_plan
from dioscuri.families.metroplex.tables import parameter_table
from torch_impl.families.latent_groups import LatentGroupMethods
from torch_impl.families.latent_steps import LatentSteps
from torch_impl.models.metroplex import Metroplex


class MetroplexMethods(LatentSteps, LatentGroupMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    plan: MetroplexPlan

    def __init__(self, hparams: HParams) -> None:
        super().__init__(hparams, make_plan(hparams))
        self.table = parameter_table(hparams, self.plan)

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return Metroplex(self.plan, self.hparams.model, checkpoint=train.checkpoint_activations)

    def regions(self, model: Any) -> list[nn.Module]:
        """Modules of the model that are compiled separately."""
        return [*model.bottom_up.blocks, *model.top_down.blocks]


FAMILY = MetroplexMethods
