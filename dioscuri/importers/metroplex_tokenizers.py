"""Weights of the tokenizers of Metroplex's later (flax) program as canonical tensors.

Names begin with `params/` for parameters and with `stats/` for the quantiser's state.
"""

from collections.abc import Mapping

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.vqgan.options import HParams
from dioscuri.families.vqgan.plan import TokenizerPlan, codebook_name
from dioscuri.families.vqgan.training import initial_buffers, plans
from dioscuri.importers.dcvae import discriminator_from_flax, generator_from_flax, powers_from_flax
from dioscuri.importers.metroplex import Rules, renamed

Arrays = Mapping[str, np.ndarray]

CODEBOOK = "stats/quantizer/embeddings"
"""(D, K): the codes, which are not parameters there. DC-VAE's tensors have a prefix, 'G/' or 'D/'."""
_COUNTS, _SUMS = (f"stats/quantizer/ExponentialMovingAverage_{i}" for i in (0, 1))
RESIDUAL: Rules = (
    (r"^params/", ""),
    (r"^(encoder|decoder)/Conv_0/", r"\1.conv_in."),
    (r"^decoder/Conv_1/", "decoder.conv_out."),
    (r"^(encoder|decoder)/EncBlock_(\d+)/block1/", r"\1.blocks.\2."),
    (r"Conv_(\d+)/", r"convs.\1."),
    (r"\.kernel$|/kernel$", ".weight"),
)


def from_flax(arrays: Arrays, plan: TokenizerPlan) -> dict[str, np.ndarray]:
    """Parameters of the VQ-VAE or of DC-VAE's generator under canonical names.

    A `UserError` if the codes are missing.
    """
    if plan.spectral is not None:
        return generator_from_flax(arrays, plan.spectral) | {codebook_name(plan): _codes(_generator(arrays))}
    tensors: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        if not name.startswith("stats/"):
            kernel = name.endswith("/kernel") and array.ndim == 4
            tensors[renamed(name, RESIDUAL)] = array.transpose(3, 2, 0, 1) if kernel else array
    return tensors | {codebook_name(plan): _codes(arrays)}


def _codes(arrays: Arrays) -> np.ndarray:
    if CODEBOOK not in arrays:
        raise UserError(
            f"there is no tensor '{CODEBOOK}': merge the program's parameter and state files, with "
            "names that begin with 'params/' and 'stats/'"
        )
    return arrays[CODEBOOK].T


def buffers_from_flax(arrays: Arrays, hparams: HParams) -> dict[str, np.ndarray]:
    """All buffers of a run: the quantiser's moving averages, vectors of the power iteration, and fresh values
    for those that the files lack."""
    plan, critic = plans(hparams)
    buffers = initial_buffers(hparams, hparams.run.seed)
    if plan.spectral is not None:
        buffers |= powers_from_flax(arrays, plan.spectral, critic)
        arrays = _generator(arrays)
    if not plan.options.ema_debiased or f"{_SUMS}/hidden" not in arrays:
        return buffers
    return buffers | {
        "cluster_size": arrays[f"{_COUNTS}/hidden"],
        "embedding_sum": arrays[f"{_SUMS}/hidden"].T,
        "averaged": arrays[f"{_COUNTS}/counter"][:1].astype(np.float32),
    }


def critic_from_flax(arrays: Arrays, hparams: HParams) -> dict[str, np.ndarray]:
    """Parameters of the discriminator, if the file has one."""
    return discriminator_from_flax(arrays, plans(hparams)[1])


def _generator(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name.removeprefix("G/"): array for name, array in arrays.items() if name.startswith("G/")}
