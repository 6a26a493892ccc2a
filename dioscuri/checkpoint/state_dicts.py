"""The weights in a checkpoint, which may hold both averaged and raw ones, and other things."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.flax_msgpack import flatten
from dioscuri.checkpoint.weight_files import Choice
from dioscuri.errors import UserError

Arrays = dict[str, np.ndarray]

RAW = ("state_dict", "model_state_dict", "model", "params", "net", "module")
"""Entries under which checkpoints store weights; SUNDAE's trainer uses `net`."""
AVERAGED = (
    *("ema", "model_ema", "ema_model", "shadow", "ema_state_dict", "state_dict_ema", "ema_model_state_dict"),
    *("model_ema_state_dict", "model_state_dict_ema", "ema_params", "params_ema", "averaged_model"),
)
"""The same for averaged weights."""

_PREFIXES = ("model_ema.", "ema_model.", "ema.")
"""Prefixes of averages among the raw weights (Lightning, ema_pytorch)."""
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod|online_model)\.)+|(?<=\.)_orig_mod\.")
"""Prefixes that data parallelism and compilation add to names."""
_COUNTERS = re.compile(r"initted|step")


def weights_of(content: Mapping[str, Any], where: Path, choice: Choice | None) -> tuple[Arrays, str]:
    """Arrays by name without wrappers' prefixes, and a line that says which were taken.

    A `UserError` if the checkpoint holds no named weights, or not those of `choice`.
    """
    groups = _groups(content, where)
    if not groups:
        raise UserError(f"{where} holds no named weights")
    selected: Choice = "raw" if choice == "raw" or "average" not in groups else "average"
    if selected not in groups:
        raise UserError(f"{where} holds only averaged weights: do not ask for raw ones")
    name, arrays = groups[selected]
    if not arrays:
        raise UserError(f"{where}: its average ({name}) does not fit the raw weights: choose the raw ones")
    entry = f" ({name})" if name else ""
    if selected == "average":
        return arrays, f"{where}: took the averaged weights{entry}"
    if "average" not in groups:
        return arrays, f"{where}: took the weights{entry}"
    return arrays, f"{where}: took the raw weights{entry}; averaged ones are there, too"


def _groups(content: Mapping[str, Any], where: Path) -> dict[Choice, tuple[str, Arrays]]:
    """Averaged and raw weights, as far as they exist, each with the name of its entry."""
    groups: dict[Choice, tuple[str, Arrays]] = {}
    for name in (*AVERAGED, *RAW):
        value = content.get(name)
        inside = _groups(value, where) if isinstance(value, Mapping) else {}
        if name in AVERAGED and inside:
            _, arrays = inside.get("raw") or inside["average"]
            groups.setdefault("average", (name, arrays))
        elif inside and "raw" not in groups:
            groups = {kind: (f"{name}{'.' if n else ''}{n}", a) for kind, (n, a) in inside.items()} | groups
    tensors = {name: value for name, value in content.items() if isinstance(value, np.ndarray)}
    if "average" in groups and "raw" not in groups and tensors:
        groups["raw"] = ("", _unwrapped(tensors, where))
    return _with_unnamed_average(content, groups) if groups else _among_others(_flat(content, where), where)


def _flat(content: Mapping[str, Any], where: Path) -> Arrays:
    """A flat table of a tree that holds nothing but arrays."""
    leaves = [value for value in content.values() if not isinstance(value, Mapping)]
    not_tensors = [name for name, value in content.items() if not isinstance(value, np.ndarray | Mapping)]
    if not_tensors and any(isinstance(value, np.ndarray) for value in leaves):
        raise UserError(f"{where}: '{not_tensors[0]}' is not a tensor, so these are not named weights")
    return {} if not_tensors else flatten(dict(content), where)


def _among_others(tensors: Arrays, where: Path) -> dict[Choice, tuple[str, Arrays]]:
    """Separate averages from the raw weights among which they lie."""
    if not tensors:
        return {}
    arrays = _unwrapped(tensors, where)
    if "n_averaged" in arrays:  # torch.optim.swa_utils.AveragedModel
        return {"average": ("AveragedModel", {k: v for k, v in arrays.items() if k != "n_averaged"})}
    for prefix in _PREFIXES:
        inside = {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
        if not inside:
            continue
        raw = {k: v for k, v in arrays.items() if not k.startswith(prefix) and not _COUNTERS.fullmatch(k)}
        named = {name.replace(".", ""): name for name in raw}  # Lightning's names lack the dots
        averaged = {named[k.replace(".", "")]: v for k, v in inside.items() if k.replace(".", "") in named}
        if averaged:
            return {"raw": ("", raw), "average": (prefix + "*", raw | averaged)}
        if not raw:
            return {"average": (prefix + "*", _unwrapped(inside, where))}
    return {"raw": ("", arrays)}


def _with_unnamed_average(
    content: Mapping[str, Any], groups: dict[Choice, tuple[str, Arrays]]
) -> dict[Choice, tuple[str, Arrays]]:
    """Add the average that lists tensors in the order of the raw ones, as in diffusers and torch_ema.

    If it does not fit the raw ones, it is added empty.
    """
    if "average" in groups or "raw" not in groups:
        return groups
    raw = groups["raw"][1]
    trained = [name for name, array in raw.items() if array.dtype.kind == "f" or "float" in array.dtype.name]
    for name in AVERAGED:
        value = content.get(name)
        shadow = value.get("shadow_params") if isinstance(value, Mapping) else None
        if isinstance(shadow, list):
            fits = [np.shape(array) for array in shadow] == [raw[name].shape for name in trained]
            named = raw | dict(zip(trained, shadow, strict=True)) if fits else {}
            return {**groups, "average": (f"{name}.shadow_params", named)}
    return groups


def _unwrapped(arrays: Arrays, where: Path) -> Arrays:
    named = {_WRAPPERS.sub("", name): array for name, array in arrays.items()}
    if len(named) < len(arrays):
        raise UserError(f"{where}: two tensors have the same name without wrapper prefixes")
    return named
