"""Metroplex and VD-VAE (Child 2021) of the Python interface."""

from typing import Any

from dioscuri.engine import Array
from dioscuri.face.usual import Values
from dioscuri.families.hierarchical_vae.usual import SYNTHESIS, with_classes
from dioscuri.families.latent_models.detecting import DetectingModel
from dioscuri.families.metroplex.plan import MetroplexPlan, make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.plans.parameters import initial_values, shapes


class MetroplexModel(DetectingModel):
    """A VD-VAE of pictures, sounds or clips; see `LatentModel` and `DetectingModel`."""

    @property
    def plan(self) -> MetroplexPlan:
        """Every layer."""
        return make_plan(self.hparams)

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""
        return shapes(parameter_table(hparams, make_plan(hparams)))

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return initial_values(parameter_table(hparams, make_plan(hparams)), seed)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: width 128 on one grid of at most 16 tokens per side."""
        side = int(given["data"]["target_res"])
        options = {
            "model": {
                "width": 128,
                "depth": 12,
                "base_hidden_res": min(16, side & -side),
                **given.get("model", {}),
            },
            "metrics": {"latent_active_threshold": 1e-4},
            "synthesis": SYNTHESIS,
        }
        return with_classes(options, given)


FACE = MetroplexModel
