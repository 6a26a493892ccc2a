"""Hierarchical VAEs (Efficient-VDVAE, Hazami et al. 2022) of the Python interface."""

from typing import Any

from dioscuri.engine import Array
from dioscuri.face.usual import Values, halvings
from dioscuri.families.hierarchical_vae.initialisation import initial_parameters, parameter_table
from dioscuri.families.hierarchical_vae.plan import HierarchicalVAEPlan, make_plan
from dioscuri.families.hierarchical_vae.usual import usual_options, with_classes
from dioscuri.families.latent_models.detecting import DetectingModel


class HierarchicalVAEModel(DetectingModel):
    """A hierarchical VAE; see `LatentModel` and `DetectingModel`."""

    @property
    def plan(self) -> HierarchicalVAEPlan:
        """Every layer."""
        return make_plan(self.hparams)

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return {name: parameter.shape for name, parameter in parameter_table(make_plan(hparams)).items()}

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return initial_parameters(hparams, make_plan(hparams), seed)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: levels that halve the pictures down to one pixel or as far as possible, 64
        channels, 8 latent channels; loss and optimiser of Efficient-VDVAE."""
        n = max(1, halvings(int(given["data"]["target_res"]), 10))
        options = usual_options(n, halves=int(given["data"]["target_res"]) % 2 == 0)
        return with_classes(options, given)


FACE = HierarchicalVAEModel
