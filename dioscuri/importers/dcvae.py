"""Weights of the DC-VAE of Metroplex's later (flax) program as canonical tensors.

Names begin with `G/` (generator) or `D/` (discriminator), followed by `params/` or `stats/` (the state of
spectral normalisation and of the quantiser). Flax numbers convolutions in the order of their calls.
"""

from collections.abc import Mapping

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.discriminators import DiscriminatorPlan
from dioscuri.families.vqgan.spectral import ContrastPlan, SpectralStacks, contrast_layers, generator_layers

Arrays = Mapping[str, np.ndarray]
Tensors = dict[str, np.ndarray]

_HEADS = {"adversarial": "gan_head", "patches": "contra_head_patch"}
_PARTS = {"hidden": "contra_head_global", "output": "contra_head_global2"}


def generator_from_flax(arrays: Arrays, stacks: SpectralStacks) -> Tensors:
    """Parameters of encoder and decoder, without the codebook, under canonical names."""
    spectral = generator_names(stacks)
    plain = _decoder_names(stacks)
    tensors = _parameters(
        arrays, "G/params/", spectral | plain, dict.fromkeys(spectral | plain, stacks.biased)
    )
    return tensors | {
        f"{ours}.sigma": _of(arrays, f"G/stats/{name}/sigma") for ours, name in spectral.items()
    }


def discriminator_from_flax(arrays: Arrays, plan: DiscriminatorPlan | None) -> Tensors:
    """Parameters of the discriminator under canonical names; empty without a discriminator of this kind."""
    if plan is None or plan.contrast is None or not any(name.startswith("D/") for name in arrays):
        return {}
    names = critic_names(plan.contrast)
    trunk = (*(f"blocks.{n}." for n in range(len(plan.contrast.blocks))), "last")
    biased = {ours: plan.contrast.biased or not ours.startswith(trunk) for ours in names}
    tensors = _parameters(arrays, "D/params/", names, biased)
    return {f"discriminator.{name}": array for name, array in tensors.items()}


def powers_from_flax(arrays: Arrays, stacks: SpectralStacks, plan: DiscriminatorPlan | None) -> Tensors:
    """Buffers of the power iteration."""
    names = generator_names(stacks)
    vectors = {f"u.{ours}": _of(arrays, f"G/stats/{name}/u0").reshape(-1) for ours, name in names.items()}
    vectors |= {f"sigma.{ours}": _of(arrays, f"G/stats/{name}/sigma") for ours, name in names.items()}
    if plan is not None and plan.contrast is not None and any(name.startswith("D/") for name in arrays):
        for ours, name in critic_names(plan.contrast).items():
            vectors[f"u.discriminator.{ours}"] = _of(arrays, f"D/stats/{name}/u0").reshape(-1)
    return vectors


def generator_names(stacks: SpectralStacks) -> dict[str, str]:
    """Canonical name -> original name of the generator's normalised layers."""
    return {ours: f"encoder/SNConv2D_{i}" for i, ours in enumerate(generator_layers(stacks))}


def critic_names(plan: ContrastPlan) -> dict[str, str]:
    """The same for the discriminator."""
    names_of_ours = {}
    for i, ours in enumerate(contrast_layers(plan)):
        kind, *path = ours.split(".")
        if kind in _HEADS:
            names_of_ours[ours] = f"{_HEADS[kind]}_{path[0]}"
        else:
            globals_ = kind == "globals"
            names_of_ours[ours] = (
                f"{_PARTS[path[1]]}_{path[0]}" if globals_ else f"discriminator/SNConv2D_{i}"
            )
    return names_of_ours


def _decoder_names(stacks: SpectralStacks) -> dict[str, str]:
    layers = [f"decoder.blocks.{n}.{conv}" for n in range(len(stacks.decoder)) for conv in ("conv1", "conv2")]
    return {ours: f"decoder/Conv2D_{i}" for i, ours in enumerate([*layers, "decoder.conv_out"])}


def _parameters(arrays: Arrays, prefix: str, names: Mapping[str, str], biased: Mapping[str, bool]) -> Tensors:
    """Kernels as OIHW, and the biases in use."""
    tensors = {}
    for ours, theirs in names.items():
        tensors[f"{ours}.weight"] = _of(arrays, f"{prefix}{theirs}/kernel").transpose(3, 2, 0, 1)
        if biased[ours]:
            tensors[f"{ours}.bias"] = _of(arrays, f"{prefix}{theirs}/bias")
    return tensors


def _of(arrays: Arrays, name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(
            f"there is no tensor '{name}': merge the program's parameter and state files, under "
            "'G/params/', 'G/stats/', 'D/params/' and 'D/stats/'"
        )
    return arrays[name]
