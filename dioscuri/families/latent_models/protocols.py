"""Options that objectives, samplers and layers of models with groups of latents read."""

from typing import Protocol

from dioscuri.families.hierarchical_vae.options import Loss
from dioscuri.hparams.sections import Data


class LatentModel(Protocol):
    """How scales are parametrised: `std` through a softplus, or `logstd` by an exponent's factor."""

    @property
    def distribution_base(self) -> str: ...

    @property
    def gradient_smoothing_beta(self) -> float: ...

    @property
    def output_distribution_base(self) -> str: ...

    @property
    def output_gradient_smoothing_beta(self) -> float: ...


class LatentHParams(Protocol):
    """The options of a family with groups of latents, as far as families share them."""

    @property
    def data(self) -> Data: ...

    @property
    def model(self) -> LatentModel: ...

    @property
    def loss(self) -> Loss: ...
