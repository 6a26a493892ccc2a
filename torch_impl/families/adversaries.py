"""The critic of a tokenizer's training, and the singular values by which kernels are divided.

The power iteration's state is in buffers: vectors `u.<layer>` and the generator's values `sigma.<layer>`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dioscuri.families.vqgan.training import LECAM_FAKE, LECAM_REAL
from torch_impl.layers.named import under
from torch_impl.layers.spectral import iterated
from torch_impl.models.dcvae import ContrastiveDiscriminator, SpectralEncoder
from torch_impl.objectives.vqgan import Critic, Verdict

Tensors = Mapping[str, Tensor]
Model = Any
"""The tokenizer, with the attribute `discriminator`."""
CRITIC_LAYERS, ENCODER_LAYERS = "discriminator", "encoder"


def critic_of(model: Model, buffers: Tensors) -> tuple[Critic, dict[str, Tensor]]:
    """A function from pictures to the discriminator's verdict, and new buffers of its power iteration."""
    network = model.discriminator
    if not isinstance(network, ContrastiveDiscriminator):
        return lambda pictures: Verdict((network(pictures)[0],)), {}
    sigmas, new = iterated(network.layers(), under(buffers, f"u.{CRITIC_LAYERS}"))

    def critic(pictures: Tensor) -> Verdict:
        return Verdict(*network(pictures, sigmas))

    return critic, {f"u.{CRITIC_LAYERS}.{name}": vector for name, vector in new.items()}


def encoder_sigmas(model: Model, buffers: Tensors) -> dict[str, Tensor]:
    """Singular values `sigma.encoder.<layer>` after one power iteration, and its vectors `u.encoder.<layer>`,
    the new buffers; empty for encoders without spectral normalisation."""
    if not isinstance(model.encoder, SpectralEncoder):
        return {}
    sigmas, new = iterated(model.encoder.layers(), under(buffers, f"u.{ENCODER_LAYERS}"))
    tensors = {f"sigma.{ENCODER_LAYERS}.{name}": sigma for name, sigma in sigmas.items()}
    return tensors | {f"u.{ENCODER_LAYERS}.{name}": vector for name, vector in new.items()}


def lecam_averages(buffers: Tensors) -> tuple[Tensor, Tensor] | None:
    """Averages of the mean logits of pictures and of reconstructions, each (1,); None without LeCam."""
    return (buffers[LECAM_REAL], buffers[LECAM_FAKE]) if LECAM_REAL in buffers else None


def updated_lecam(buffers: Tensors, metrics: Tensors, decay: float) -> dict[str, Tensor]:
    """The averages after a batch with these mean logits; empty without LeCam."""
    if LECAM_REAL not in buffers:
        return {}
    return {
        buffer: decay * buffers[buffer] + (1 - decay) * metrics[name]
        for buffer, name in ((LECAM_REAL, "logits_real"), (LECAM_FAKE, "logits_fake"))
    }
