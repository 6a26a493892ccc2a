"""Weights of Metroplex's two programs and of VD-VAE under canonical names and in canonical layouts.

The TensorFlow program stores kernels as HWIO and maps as NCHW; the flax one stores maps as HWC and
heads on an axis of their own.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from dioscuri.errors import UserError
from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import MetroplexPlan, make_plan
from dioscuri.families.metroplex.tables import parameter_table
from dioscuri.plans.parameters import shapes

Rules = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
Weights = dict[str, np.ndarray]

_UP, _DOWN = r"encoder/block_(\d+)", r"decoder/block_(\d+)"
TENSORFLOW: Rules = (
    (r"^metroplex/", ""),
    (r"^(gain|bias)$", r"top_down.\1"),
    (r"^dmol_sigma$", "top_down.log_scale"),
    (r"^bias_xs_(\d+)$", r"top_down.start.\1"),
    (r"rel_bias1$", "row_bias"),
    (r"rel_bias2$", "column_bias"),
    (r"^enc-attn_(\d+)-", r"bottom_up.blocks.\1.attention."),
    (r"^dec-enc_(\d+)-", r"top_down.blocks.\1.posterior."),
    (r"^dec-(?:pre_sample|prior)_(\d+)-", r"top_down.blocks.\1.attention."),
    (rf"^{_UP}/self-attention/", r"bottom_up.blocks.\1.attention."),
    (rf"^{_UP}/feedforward/", r"bottom_up.blocks.\1.feed_forward."),
    (rf"^{_UP}/", r"bottom_up.blocks.\1.cell."),
    (rf"^{_DOWN}/presample/", r"top_down.blocks.\1.attention."),
    (rf"^{_DOWN}/sample/enc/proj_z/", r"top_down.blocks.\1.posterior_layer."),
    (rf"^{_DOWN}/sample/enc/qkv/", r"top_down.blocks.\1.posterior.query."),
    (rf"^{_DOWN}/sample/enc/", r"top_down.blocks.\1.posterior."),
    (rf"^{_DOWN}/sample/prior/(?:proj_z|conv)/", r"top_down.blocks.\1.prior_layer."),
    (rf"^{_DOWN}/sample/prior/layer_", r"top_down.blocks.\1.prior.layer_"),
    (rf"^{_DOWN}/sample/prior/", r"top_down.blocks.\1.attention."),
    (rf"^{_DOWN}/z_fn/", r"top_down.blocks.\1.z_projection."),
    (rf"^{_DOWN}/resnet/", r"top_down.blocks.\1.residual."),
    (r"^encoder/in_conv/", "bottom_up.input_conv."),
    (r"^decoder/out_conv/", "top_down.output_conv."),
    (r"layer_(\d+)/conv/", r"convs.\1."),
    (r"rezero_bias$", "gate"),
    (r"/", "."),
    (r"\.kernel$", ".weight"),
)
_FLAX_UP, _FLAX_DOWN = r"encoder/EncBlock_(\d+)", r"decoder/dec_blocks_(\d+)"
FLAX: Rules = (
    (r"^decoder/(gain|bias)$", r"top_down.\1"),
    (r"^encoder/Conv_0/", "bottom_up.input_conv."),
    (r"^decoder/out_conv/", "top_down.output_conv."),
    (rf"^{_FLAX_UP}/block1/", r"bottom_up.blocks.\1.cell."),
    (rf"^{_FLAX_UP}/pre_layer/", r"bottom_up.blocks.\1."),
    (rf"^{_FLAX_DOWN}/bias_(\d+)$", r"top_down.start.\2"),
    (rf"^{_FLAX_DOWN}/enc/", r"top_down.blocks.\1.posterior."),
    (rf"^{_FLAX_DOWN}/prior/", r"top_down.blocks.\1.prior."),
    (rf"^{_FLAX_DOWN}/resnet/", r"top_down.blocks.\1.residual."),
    (rf"^{_FLAX_DOWN}/z_proj/", r"top_down.blocks.\1.z_projection."),
    (rf"^{_FLAX_DOWN}/pre_layer/", r"top_down.blocks.\1."),
    (r"Conv_(\d+)/", r"convs.\1."),
    (r"/", "."),
    (r"\.kernel$", ".weight"),
)


def from_original(arrays: Mapping[str, np.ndarray], hparams: HParams) -> Weights:
    """Weights of either program, recognised by their names, as canonical tensors."""
    first = any(name.startswith("metroplex/") for name in arrays)
    return (from_tensorflow if first else from_flax)(arrays, hparams, make_plan(hparams), "weights")


def from_tensorflow(
    arrays: Mapping[str, np.ndarray], hparams: HParams, plan: MetroplexPlan, where: object
) -> Weights:
    """Variables of the TensorFlow program, 'metroplex/...', as canonical tensors."""
    rules = (*TENSORFLOW, (r"\.residual\.", ".feed_forward.")) if plan.transformer else TENSORFLOW
    return converted(arrays, rules, hparams, plan, where)


def from_flax(
    arrays: Mapping[str, np.ndarray], hparams: HParams, plan: MetroplexPlan, where: object
) -> Weights:
    """Parameters of the flax program's VDVAE, 'encoder/...' and 'decoder/...', as canonical tensors."""
    return converted(arrays, FLAX, hparams, plan, where)


def converted(
    arrays: Mapping[str, np.ndarray], rules: Rules, hparams: HParams, plan: MetroplexPlan, where: object
) -> Weights:
    """Rename and permute axes; a `UserError` names the first tensor that is missing, unknown or misshapen."""
    expected = shapes(parameter_table(hparams, plan))
    renamed_arrays = {renamed(name, rules): (name, array) for name, array in arrays.items()}
    for name, (original, _) in renamed_arrays.items():
        if name not in expected:
            raise UserError(f"{where}: tensor '{original}' is unknown to this configuration")
    for name in expected:
        if name not in renamed_arrays:
            raise UserError(f"{where}: lacks the tensor '{name}' of this configuration")
    converted = {}
    for name, shape in expected.items():
        original, array = renamed_arrays[name]
        value = _laid_out(original, np.asarray(array), shape)
        if value.shape != shape:
            raise UserError(
                f"{where}: tensor '{original}' has shape {array.shape}, this configuration needs {shape}"
            )
        converted[name] = value
    return converted


def renamed(name: str, rules: Rules) -> str:
    """Canonical name, after applying all rules in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _laid_out(original: str, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor in the canonical layout that its name implies; unchanged if its size is wrong."""
    if original.endswith("/kernel"):
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 3:  # a dense layer from or to heads
            array = (
                array.reshape(-1, array.shape[-1]) if "/out/" in original else array.reshape(len(array), -1)
            )
            array = array.T
    elif array.ndim == 3:
        array = array.transpose(2, 0, 1)
    return np.ascontiguousarray(array.reshape(shape) if array.size == np.prod(shape) else array)
