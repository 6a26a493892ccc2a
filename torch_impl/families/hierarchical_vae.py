"""The hierarchical VAE for the engine."""

from typing import Any

import numpy as np
from torch import nn

from dioscuri.families.hierarchical_vae.initialisation import decayed, initial_parameters, parameter_table
from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.families.hierarchical_vae.plan import HierarchicalVAEPlan, make_plan
from torch_impl.families.latent_groups import LatentGroupMethods
from torch_impl.families.latent_steps import LatentSteps
from torch_impl.models.hierarchical_vae import HierarchicalVAE


class HierarchicalVAEMethods(LatentSteps, LatentGroupMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    plan: HierarchicalVAEPlan

    def __init__(self, hparams: HParams) -> None:
        super().__init__(hparams, make_plan(hparams))

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return {name: parameter.shape for name, parameter in parameter_table(self.plan).items()}

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """Initial values under canonical names."""
        return initial_parameters(self.hparams, self.plan, seed)

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""
        return decayed(name)

    def build(self) -> nn.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return HierarchicalVAE(self.plan, self.hparams.model, checkpoint=train.checkpoint_activations)

    def regions(self, model: Any) -> list[nn.Module]:
        """Modules of the model that are compiled separately."""
        return [*model.bottom_up.blocks, *model.top_down.blocks]


FAMILY = HierarchicalVAEMethods
