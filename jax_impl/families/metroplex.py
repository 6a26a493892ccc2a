"""Metroplex and VD-VAE for the engine."""

from flax import nnx

from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import MetroplexPlan, make_plan
from dioscuri.families.metroplex.tables import parameter_table
from jax_impl.families.latent_groups import LatentGroupMethods
from jax_impl.families.latent_steps import LatentSteps
from jax_impl.models.metroplex import Metroplex


class MetroplexMethods(LatentSteps, LatentGroupMethods):
    """See `dioscuri.contract.FamilyMethods`."""

    plan: MetroplexPlan

    def __init__(self, hparams: HParams) -> None:
        super().__init__(hparams, make_plan(hparams))
        self.table = parameter_table(hparams, self.plan)

    def build(self) -> nnx.Module:
        """The model; its parameters need not be initialised."""
        train = self.hparams.train
        return Metroplex(
            self.plan,
            self.hparams.model,
            checkpoint=train.checkpoint_activations,
        )


FAMILY = MetroplexMethods
