"""Parameters and constants of Meissonic's transformer (Bai et al. 2024), under the names of its authors."""

import numpy as np

from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.tables import dense
from dioscuri.plans.parameters import ONES, Init, Parameter, Table

SINUSOID = 256
"""Width of the encoding of the time and of each of the five micro-conditions."""


def meissonic(plan: TransformerPlan) -> Table:
    """Meissonic's `Transformer2DModel`; initial values are PyTorch's default."""
    options, C = plan.options, plan.options.hidden_size
    table = _two_layers("time_text_embed.timestep_embedder", SINUSOID, C, bias=True)
    table |= _two_layers("time_text_embed.text_embedder", C, C, bias=True)
    table |= _two_layers("cond_embed", options.cond_embed_dim + 5 * SINUSOID, C, bias=False)
    table |= dense("context_embedder", options.encoder_hidden_size, C, bias=True)
    table |= _scale("encoder_proj_layer_norm", C)
    table["embed.embeddings.weight"] = Parameter((plan.vocab_size, C), Init("normal", 1.0), decays=False)
    table |= _scale("embed.layer_norm", C) | _convolution("embed.conv", C, C)
    if options.force_down_up_sample:
        table |= _scale("down_block.downsample.norm", C)
        table |= _convolution("down_block.downsample.conv", C, C, side=2)
    table |= _scale("project_to_hidden_norm", C) | dense("project_to_hidden", C, C, bias=False)
    for i in range(options.num_hidden_layers):
        table |= _double_block(f"transformer_blocks.{i}", plan)
    for i in range(options.num_single_layers):
        table |= _single_block(f"single_transformer_blocks.{i}", plan)
    table |= _scale("project_from_hidden_norm", C) | dense("project_from_hidden", C, C, bias=False)
    if options.force_down_up_sample:
        table |= _scale("up_block.upsample.norm", C)
        table |= _convolution("up_block.upsample.conv", C, C, side=2)
    table |= _convolution("mlm_layer.conv1", C, C) | _scale("mlm_layer.layer_norm", C)
    return table | _convolution("mlm_layer.conv2", C, plan.outputs)


def _sinusoid_frequencies() -> np.ndarray:
    half = SINUSOID // 2
    exponents = np.float32(-np.log(10000)) * np.arange(half, dtype=np.float32) / np.float32(half)
    frequencies = np.exp(exponents.astype(np.float64)).astype(np.float32)
    for k in (12, 106):  # where PyTorch's exponential is one unit above the nearest number
        frequencies[k] = np.nextafter(frequencies[k], np.float32(1))
    return frequencies


SINUSOID_FREQUENCIES = _sinusoid_frequencies()
"""Frequencies (128,) of the sinusoid, float32, as PyTorch computes them on a CPU.

The encoded time reaches 10^6 in training, where one unit in the last place of a frequency shifts an angle
by 0.06: the published weights depend on these very numbers.
"""


def grid_positions(rows: int, columns: int) -> np.ndarray:
    """Positions (L, 3) of a grid's tokens, row by row: 0, row, column."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    return np.stack([np.zeros_like(row), row, column], 1)


def rotary_angles(positions: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    """Angles (L, K / 2), float64, by which pairs of channels rotate at positions (L, 3); `axes` says how many
    of a head's K channels belong to each axis (Su et al. 2021)."""
    angles = [
        positions[:, i, None] * 10000.0 ** (-np.arange(0, width, 2) / width) for i, width in enumerate(axes)
    ]
    return np.concatenate(angles, 1)


def sequence_angles(plan: TransformerPlan, text_length: int) -> np.ndarray:
    """`rotary_angles` of text tokens, which are all at the origin, and the picture's: (S + L, K / 2)."""
    rows, columns = plan.hidden_shape
    positions = np.concatenate([np.zeros((text_length, 3)), grid_positions(rows, columns)])
    return rotary_angles(positions, plan.options.axes_dims_rope)


def _double_block(name: str, plan: TransformerPlan) -> Table:
    C = plan.options.hidden_size
    table: Table = {}
    for norm in ("norm1", "norm1_context"):
        table |= dense(f"{name}.{norm}.linear", C, 6 * C, bias=True)
    names = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out")
    for layer in names:
        table |= dense(f"{name}.attn.{layer}", C, C, bias=True)
    for norm in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        table |= _scale(f"{name}.attn.{norm}", plan.head_dim)
    for layer in ("ff", "ff_context"):
        table |= dense(f"{name}.{layer}.net.0.proj", C, plan.inner, bias=True)
        table |= dense(f"{name}.{layer}.net.2", plan.inner, C, bias=True)
    return table


def _single_block(name: str, plan: TransformerPlan) -> Table:
    C = plan.options.hidden_size
    table = dense(f"{name}.norm.linear", C, 3 * C, bias=True)
    table |= dense(f"{name}.proj_mlp", C, plan.inner, bias=True)
    table |= dense(f"{name}.proj_out", C + plan.inner, C, bias=True)
    for layer in ("to_q", "to_k", "to_v"):
        table |= dense(f"{name}.attn.{layer}", C, C, bias=True)
    return table | _scale(f"{name}.attn.norm_q", plan.head_dim) | _scale(f"{name}.attn.norm_k", plan.head_dim)


def _two_layers(name: str, inputs: int, width: int, *, bias: bool) -> Table:
    table = dense(f"{name}.linear_1", inputs, width, bias=bias)
    return table | dense(f"{name}.linear_2", width, width, bias=bias)


def _convolution(name: str, inputs: int, outputs: int, *, side: int = 1) -> Table:
    return {f"{name}.weight": Parameter((outputs, inputs, side, side), Init("fan_in_uniform"))}


def _scale(name: str, width: int) -> Table:
    return {f"{name}.weight": Parameter((width,), ONES, decays=False)}
