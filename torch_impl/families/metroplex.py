"""Metroplex and VD-VAE as the engine sees them."""

import numpy as np
from torch import nn

from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.plans.parameters import initial_values, shapes
from torch_impl.devices import COMPUTE_DTYPES
from torch_impl.families.latent_groups import LatentGroupMethods
from torch_impl.models.metroplex import Metroplex


class MetroplexMethods(LatentGroupMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    def __init__(self, hparams: HParams) -> None:
        super().__init__(hparams, make_plan(hparams))
        self.table = parameter_table(hparams, self.plan)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(self.table)

    def initial_parameters(self, seed: int) -> dict[str, np.ndarray]:
        """First values under canonical names."""
        return initial_values(self.table, seed)

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""
        return self.table[name].decays

    def build(self) -> nn.Module:
        """The model; its parameters' values do not matter."""
        train = self.hparams.train
        dtype = COMPUTE_DTYPES[train.precision]
        return Metroplex(self.plan, self.hparams.model, dtype=dtype, checkpoint=train.checkpoint_activations)

    def regions(self, model: nn.Module) -> list[nn.Module]:
        """Parts of the model that are compiled each on its own."""
        return [*model.bottom_up.blocks, *model.top_down.blocks]


FAMILY = MetroplexMethods
