"""Options read by objectives, samplers and layers of models with groups of latents."""

from typing import Protocol

from dioscuri.families.hierarchical_vae.options import Loss
from dioscuri.hparams.sections import Data


class LatentModel(Protocol):
    """Parametrisation of scales: `std` through a softplus, or `logstd` with a factor in the exponent."""

    @property
    def distribution_base(self) -> str: ...

    @property
    def gradient_smoothing_beta(self) -> float: ...

    @property
    def output_distribution_base(self) -> str: ...

    @property
    def output_gradient_smoothing_beta(self) -> float: ...


class LatentHParams(Protocol):
    """The options that families with groups of latents share."""

    @property
    def data(self) -> Data: ...

    @property
    def model(self) -> LatentModel: ...

    @property
    def loss(self) -> Loss: ...
