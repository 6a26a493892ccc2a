"""Noise of masking in training."""

from dioscuri.families.token_models.masking_options import Masking
from dioscuri.plans.noise import NoiseSpec


def masking_noise(options: Masking, batch: int, n_tokens: int) -> tuple[NoiseSpec, ...]:
    """Uniform noise of `mask_tokens`: `time` (B,) and `order` (B, L) always; `coin` (B,) and `region` (B, 3)
    for rectangles, `kept` (B, L) for masked positions that keep their token, `replacement` (B, L) for random
    codes."""
    shapes: dict[str, tuple[int, ...]] = {"time": (batch,), "order": (batch, n_tokens)}
    if options.mask_contiguous_region_prob:
        shapes |= {"coin": (batch,), "region": (batch, 3)}
    if options.no_mask_token_prob:
        shapes["kept"] = (batch, n_tokens)
    if options.noise_type == "random_replace":
        shapes["replacement"] = (batch, n_tokens)
    return tuple(NoiseSpec(name, "uniform", shape) for name, shape in shapes.items())
