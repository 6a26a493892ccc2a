"""Networks of sundae-vqgan and of the text8 SUNDAE: converts their options and weights."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from dioscuri.checkpoint.tensor_files import config_flag
from dioscuri.errors import UserError
from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.sundae.plan import (
    DenoiserPlan,
    Level,
    Stack,
    axis_frequencies,
    parameter_table,
    text_angles,
)

TEXT_HEADS, HEAD = 8, 64
"""x-transformers 0.22 builds this many heads, whatever the text8 program asks for."""
WITHIN = 1e-4
CLASSES = "class_emb.weight"

Arrays = Mapping[str, np.ndarray]


def hourglass_options(constructor: Mapping[str, Any]) -> Denoiser:
    """Options from `HourglassTransformerLM`'s arguments; a `UserError` names an unsupported one."""
    if constructor.get("causal", True):
        raise UserError("causal=True: an hourglass on two-dimensional patches cannot be causal")
    if constructor.get("attn_type", "vanilla") != "vanilla":
        raise UserError(f"attn_type '{constructor['attn_type']}' is not supported: only 'vanilla' is")
    factor = constructor.get("shorten_factor") or 0
    return Denoiser(
        dim=constructor["dim"],
        depth=_tuples(constructor["depth"]),
        shorten_factor=_tuples(factor),
        nb_heads=constructor.get("heads", 8),
        dim_head=constructor.get("dim_head", HEAD),
        updown_sample_type=constructor.get("updown_sample_type", "naive"),
        attn_resampling=constructor.get("attn_resampling", True),
        use_rotary=constructor.get("rotary_pos_emb", False),
        rotary_emb_dim=_rotary_emb_dim(constructor),
        num_classes=(constructor.get("num_classes") or 0) if config_flag(constructor, "conditional") else 0,
        legacy_positions=True,
    )


def text_options(model: Mapping[str, Any]) -> Denoiser:
    """Options from the table `[model]` of the text8 program."""
    return Denoiser(
        architecture="transformer",
        dim=model["embedding_dim"],
        depth=model["nb_layers"],
        nb_heads=TEXT_HEADS,
        dim_head=HEAD,
        use_scalenorm=model["use_scalenorm"],
        use_glu=model["use_glu"],
        use_rotary=model["use_rotary"],
    )


def from_sundae(arrays: Arrays, plan: DenoiserPlan) -> dict[str, np.ndarray]:
    """Weights without rotary frequencies, which follow from the plan.

    A `UserError` names the first tensor that is missing, unknown or of the wrong shape, and frequencies that
    differ from the plan's. It also refuses an hourglass without the positions that these weights have learnt.
    """
    if plan.options.architecture == "hourglass" and not plan.options.legacy_positions:
        raise UserError("weights of the original hourglass need model.legacy_positions=True")
    frequencies = {name: array for name, array in arrays.items() if name.endswith("freq") or "freqs" in name}
    _check_frequencies(frequencies, plan)
    tensors = {name: array for name, array in arrays.items() if name not in frequencies}
    table = parameter_table(plan)
    for name in (*table, *tensors):
        expected = table[name].shape if name in table else "no such tensor"
        has = tensors[name].shape if name in tensors else "no such tensor"
        if expected != has:
            raise UserError(
                f"tensor '{name}' must be {expected}, there is {has}: the weights do not fit these options"
            )
    return tensors


def by_class_number(weights: Arrays) -> dict[str, np.ndarray]:
    """The weights, with the class of the original's folder c in row c of the class embedding.

    The original numbers class folders in the order of their names as text: '0', '1', '10', '11', '2', ...
    """
    embedding = weights[CLASSES]
    order = sorted(range(len(embedding)), key=str)  # the folders in the original's order
    rows = np.empty_like(embedding)
    rows[order] = embedding
    return {**weights, CLASSES: rows}


def _check_frequencies(arrays: Arrays, plan: DenoiserPlan) -> None:
    expected = _frequencies("transformer", plan.body, plan.options)
    if plan.options.architecture == "transformer":
        expected = {"attn_layers.rotary_pos_emb.inv_freq": text_angles(2)[1, 0]}
    for name, array in arrays.items():
        if "attn_resampling" in name:  # never used
            continue
        frequencies = expected.get(name)
        if (
            frequencies is None
            or frequencies.shape != array.shape
            or np.abs(array - frequencies).max() > WITHIN
        ):
            raise UserError(f"'{name}' holds other frequencies than the options give")


def _rotary_emb_dim(constructor: Mapping[str, Any]) -> int:
    """0 if it equals our default; the original rounds an odd number down."""
    if not constructor.get("rotary_pos_emb", False):
        return 0
    head = constructor.get("dim_head", HEAD)
    channels = constructor.get("rotary_emb_dim") or head // 2
    return 0 if 2 * channels == head and channels % 2 == 0 else channels // 2 * 2


def _frequencies(name: str, body: Stack | Level, model: Denoiser) -> dict[str, np.ndarray]:
    if isinstance(body, Stack):
        if not body.max_frequency:
            return {}
        return {f"{name}.rotary_pos_emb.freqs": axis_frequencies(body, model)}
    return (
        _frequencies(f"{name}.pre_transformer", body.before, model)
        | _frequencies(f"{name}.post_transformer", body.after, model)
        | _frequencies(f"{name}.valley_transformer", body.inside, model)
    )


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
