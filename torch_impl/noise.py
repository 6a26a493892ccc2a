"""Noise for a model's draws, a pure function of (seed, stream, step, process)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from dioscuri.plans.noise import NoiseSpec

STREAMS = {
    "train_step": 0,
    "evaluate": 1,
    "reconstruct": 2,
    "generate": 3,
    "encode": 2,
    "decode": 5,
    "divergence_statistics": 6,
    "inpaint": 7,
    "output_statistics": 8,
}
"""Random stream of each method of the engine: `encode` and `reconstruct` share one."""


def draw_noise(
    specs: Sequence[NoiseSpec], key: tuple[int, int, int, int], device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """Draw the arrays (B, ...), all normals in one call and all uniforms in another."""
    generator = torch.Generator(device)
    generator.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    return draw_from(specs, generator, dtype)


def draw_from(specs: Sequence[NoiseSpec], root: torch.Generator, dtype: torch.dtype) -> dict[str, Any]:
    """Draw the arrays from a generator."""
    noise: dict[str, Any] = {spec.name: root for spec in specs if spec.kind == "generator"}
    for kind in ("normal", "uniform"):
        chosen = [spec for spec in specs if spec.kind == kind]
        if not chosen:
            continue
        batch, widths = chosen[0].shape[0], [int(np.prod(spec.shape[1:])) for spec in chosen]
        sample = torch.randn if kind == "normal" else torch.rand
        values = sample((batch, sum(widths)), generator=root, device=root.device, dtype=dtype)
        for spec, array in zip(chosen, values.split(widths, dim=1), strict=True):
            array = array if kind == "normal" else spec.low + (spec.high - spec.low) * array
            noise[spec.name] = array.reshape(spec.shape)
    return noise
