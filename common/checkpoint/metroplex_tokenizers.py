"""Weights of the tokenizers of Metroplex's later (flax) program as canonical tensors.

Their files hold parameters and, beside them, what the quantiser keeps: names begin with `params/` and
`stats/`.
"""

from collections.abc import Mapping

import numpy as np

from common.checkpoint.metroplex import Rules, renamed
from common.errors import UserError
from common.plans.tokenizers import TokenizerPlan, codebook_name

Arrays = Mapping[str, np.ndarray]

CODEBOOK = "stats/quantizer/embeddings"
"""(D, K): the codes, which are no parameters there."""
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
    """Parameters of the VQ-VAE under canonical names; a `UserError` where the codes are missing."""
    found = {}
    for name, array in arrays.items():
        if not name.startswith("stats/"):
            kernel = name.endswith("/kernel") and array.ndim == 4
            found[renamed(name, RESIDUAL)] = array.transpose(3, 2, 0, 1) if kernel else array
    if CODEBOOK not in arrays:
        raise UserError(
            f"there is no tensor '{CODEBOOK}': join the program's files of parameters and of state, with "
            "names that begin with 'params/' and 'stats/'"
        )
    return found | {codebook_name(plan): arrays[CODEBOOK].T}


def buffers_from_flax(arrays: Arrays, plan: TokenizerPlan) -> dict[str, np.ndarray]:
    """The quantiser's moving averages; empty where the run keeps others or the file has none."""
    if not plan.options.ema_debiased or f"{_SUMS}/hidden" not in arrays:
        return {}
    return {
        "cluster_size": arrays[f"{_COUNTS}/hidden"],
        "embedding_sum": arrays[f"{_SUMS}/hidden"].T,
        "averaged": arrays[f"{_COUNTS}/counter"][:1].astype(np.float32),
    }
