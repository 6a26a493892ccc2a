"""Published networks that extract features of pictures: the Inception network of FID."""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dioscuri.errors import UserError
from dioscuri.evaluation.inception_weights import inception_file, read_inception
from jax_impl.models.inception import features, resized

Extract = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, np.ndarray | None]]


def open_network(name: str, weights: str) -> tuple[Extract, str]:
    """A function from B pictures uint8 (H, W, 3) of any sizes to features (B, D) and logits, if any; and a
    description of the network.

    `weights`: a file; if empty, the published one, downloaded once.
    """
    if name != "inception":
        raise UserError(
            f"--extractor {name} needs the library transformers, which runs on PyTorch: leave --twin out"
        )
    file = Path(weights) if weights else inception_file()
    arrays = jax.device_put(read_inception(file))
    run = jax.jit(features)

    def extract(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        dtype = arrays["fc.weight"].dtype
        x = jnp.concatenate([resized(jnp.asarray(picture[None]), dtype) for picture in pictures])
        pooled, logits = run(x, arrays)
        return np.asarray(pooled), np.asarray(logits)

    return extract, f"Inception-v3 of FID, {file}"
