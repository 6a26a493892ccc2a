"""Importers and exporter of Efficient-VDVAE's checkpoints (both original programs), on numpy arrays.

The files have been decoded already: the PyTorch program's into nested dicts of arrays and numbers, the JAX
program's by `dioscuri.checkpoint.flax_msgpack`. `step` counts batches: the PyTorch program saves the index of
its last batch (`global_step`), the JAX program the number of applied updates.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dioscuri.checkpoint.compare import check_finite, match
from dioscuri.checkpoint.flax_msgpack import flatten
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.initialisation import parameter_table
from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.families.hierarchical_vae.plan import HierarchicalVAEPlan
from dioscuri.importers.efficient_vdvae_names import Key, flax_shape, from_flax_layout, key_table

Arrays = dict[str, np.ndarray]
TORCH_KEYS = (
    "global_step",
    "model_state_dict",
    "ema_model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
)
_FLAX_KEYS = ("step", "params", "opt_state", "ema_decay", "ema_params")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A converted checkpoint: number of batches; `model`, `ema`, `optimizer`,
    `counters` by canonical name."""

    step: int
    state: dict[str, Arrays]


def moment_names(hparams: HParams) -> tuple[str, str]:
    """Names of the optimiser's two tensors per parameter."""
    return "exp_avg", "exp_inf" if hparams.optimizer.type == "Adamax" else "exp_avg_sq"


def from_torch(
    saved: Mapping[str, Any], hparams: HParams, plan: HierarchicalVAEPlan, where: object
) -> Imported:
    """Convert the PyTorch program's checkpoint; a `UserError` names a mismatch with the configuration."""
    _need(saved, TORCH_KEYS, where, "checkpoint of the PyTorch Efficient-VDVAE")
    table = key_table(plan)
    step = _integer(saved["global_step"], "global_step", where) + 1
    model = _torch_weights(saved["model_state_dict"], table, plan, "model", where)
    ema = _torch_weights(saved["ema_model_state_dict"], table, plan, "ema", where)
    moments, updates = _torch_moments(saved["optimizer_state_dict"], table, hparams, plan, where)
    return _imported(step, updates, model, ema, moments, where)


def from_flax(
    tree: Mapping[str, Any], hparams: HParams, plan: HierarchicalVAEPlan, where: object
) -> Imported:
    """Convert the JAX program's checkpoint; a `UserError` names a mismatch with the configuration."""
    _need(tree, _FLAX_KEYS, where, "checkpoint of the JAX Efficient-VDVAE")
    model = _flax_weights(tree["params"], plan, "params", where)
    ema = _flax_weights(tree["ema_params"], plan, "ema_params", where)
    saved = tree["opt_state"].get("0") if isinstance(tree["opt_state"], dict) else None
    if not isinstance(saved, dict):
        raise UserError(f"{where}: opt_state has no entry '0' and is not from the JAX Efficient-VDVAE")
    _need(saved, ("count", "mu", "nu"), where, "opt_state/0")
    moments: Arrays = {}
    for ours, theirs in zip(moment_names(hparams), ("mu", "nu"), strict=True):
        tensors = _flax_weights(saved[theirs], plan, f"opt_state/0/{theirs}", where)
        moments |= {f"{ours}.{name}": array for name, array in tensors.items()}
    step = _integer(tree["step"], "step", where)
    updates = _integer(saved["count"], "opt_state/0/count", where)
    return _imported(step, updates, model, ema, moments, where)


def to_torch(
    state: Mapping[str, Mapping[str, np.ndarray]],
    step: int,
    hparams: HParams,
    plan: HierarchicalVAEPlan,
    next_learning_rate: float,
    where: object,
) -> dict[str, Any]:
    """A state in the PyTorch program's format; arrays, even 0-d ones, are to become tensors of its file.

    `next_learning_rate` is that of the batch after `step` batches. As in the original, tensors that never get
    a gradient have no entry in the optimiser's state.
    """
    table, names = key_table(plan), moment_names(hparams)
    shapes = _shapes(plan)
    for group in ("model", "ema"):
        match(shapes, state[group], group, where)
    match(
        {f"{m}.{key}": shape for m in names for key, shape in shapes.items()},
        state["optimizer"],
        "optimizer",
        where,
    )
    updates = int(state["counters"]["updates"])
    count = np.array(updates, np.float32) if hparams.optimizer.type == "Adam" else updates
    moments = {
        index: {"step": count, **{m: state["optimizer"][f"{m}.{key.name}"] for m in names}}
        for index, key in enumerate(table)
        if updates > 0 and key.trained
    }
    groups = [_parameter_group(hparams, next_learning_rate, len(table))]
    return {
        "global_step": step - 1,
        "model_state_dict": OrderedDict((key.torch, state["model"][key.name]) for key in table),
        "ema_model_state_dict": OrderedDict((key.torch, state["ema"][key.name]) for key in table),
        "optimizer_state_dict": {"state": moments, "param_groups": groups},
        "scheduler_state_dict": _scheduler(hparams, step, next_learning_rate),
    }


def _imported(
    step: int, updates: int, model: Arrays, ema: Arrays, optimizer: Arrays, where: object
) -> Imported:
    if not 0 <= updates <= step:
        raise UserError(f"{where}: {updates} updates in {step} steps is impossible; the file is damaged")
    for tensors in (model, ema, optimizer):
        check_finite(tensors, where)
    counters = {"updates": updates, "skips": step - updates, "skips_in_row": 0}
    counted = {name: np.array(count, np.int64) for name, count in counters.items()}
    return Imported(
        step=step, state={"model": model, "ema": ema, "optimizer": optimizer, "counters": counted}
    )


def _torch_weights(
    tensors: object, table: tuple[Key, ...], plan: HierarchicalVAEPlan, what: str, where: object
) -> Arrays:
    """One state dict, without DistributedDataParallel's prefix."""
    if not isinstance(tensors, Mapping) or not all(
        isinstance(array, np.ndarray) for array in tensors.values()
    ):
        raise UserError(f"{where}: {what}_state_dict is not a table of tensors")
    unwrapped = {str(name).removeprefix("module."): array for name, array in tensors.items()}
    shapes = _shapes(plan)
    match({key.torch: shapes[key.name] for key in table}, unwrapped, what, where)
    return {key.name: unwrapped[key.torch] for key in table}


def _torch_moments(
    saved: object, table: tuple[Key, ...], hparams: HParams, plan: HierarchicalVAEPlan, where: object
) -> tuple[Arrays, int]:
    """The optimiser's tensors, including parameters that it has not updated yet, and its step."""
    entries = saved.get("state") if isinstance(saved, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise UserError(f"{where}: optimizer_state_dict has no table 'state'")
    names = moment_names(hparams)
    shapes = _shapes(plan)
    trained = {index for index, key in enumerate(table) if key.trained} if entries else set()
    expected = {
        f"{key.name}.{m}": shapes[key.name]
        for index, key in enumerate(table)
        for m in names
        if index in trained or index in entries
    }
    named = {
        f"{table[index].name if index in range(len(table)) else index}.{leaf}": np.asarray(value)
        for index, entry in entries.items()
        for leaf, value in entry.items()
        if leaf != "step"
    }
    match(expected, named, "optimizer", where)
    steps = {_integer(entry.get("step"), "optimizer step", where) for entry in entries.values()} or {0}
    if len(steps) > 1:
        raise UserError(f"{where}: the optimizer's parameters are at different steps, {sorted(steps)}")
    updates = steps.pop()
    # Without gradients Adamax's infinity norm, max(beta2 u, |g| + epsilon), is epsilon from the first update.
    floor = hparams.optimizer.epsilon if names[1] == "exp_inf" and updates else 0.0
    unmet = {names[0]: 0.0, names[1]: floor}
    moments = {
        f"{m}.{key.name}": named.get(f"{key.name}.{m}", np.full(shapes[key.name], value, np.float32))
        for key in table
        for m, value in unmet.items()
    }
    return moments, updates


def _flax_weights(tree: object, plan: HierarchicalVAEPlan, what: str, where: object) -> Arrays:
    if not isinstance(tree, dict):
        raise UserError(f"{where}: {what} is not a table of tensors")
    table, shapes, arrays = key_table(plan), _shapes(plan), flatten(tree, f"{where}: {what}")
    match({key.flax: flax_shape(key, shapes[key.name]) for key in table}, arrays, what, where)
    return {key.name: from_flax_layout(key, arrays[key.flax], plan) for key in table}


def _shapes(plan: HierarchicalVAEPlan) -> dict[str, tuple[int, ...]]:
    return {name: parameter.shape for name, parameter in parameter_table(plan).items()}


def _parameter_group(hparams: HParams, learning_rate: float, n: int) -> dict[str, Any]:
    """The optimiser's only group. The original has no weight decay, whatever the configuration says."""
    options = hparams.optimizer
    group = {
        "lr": np.array(learning_rate, np.float32),
        "betas": (options.beta1, options.beta2),
        "eps": options.epsilon,
        "weight_decay": 0.0,
        "initial_lr": options.learning_rate,
        "params": list(range(n)),
    }
    if options.type in ("RAdam", "Radam"):
        group["buffer"] = [[None, None, None] for _ in range(10)]  # torch_optimizer's cache of step sizes
    return group


def _scheduler(hparams: HParams, step: int, learning_rate: float) -> dict[str, Any]:
    options = hparams.optimizer
    return {
        "decay_steps": options.decay_steps,
        "decay_start": options.decay_start,
        "minimum_learning_rate": options.min_learning_rate,
        "warmup_steps": options.warmup_steps,
        "T_max": options.decay_steps,
        "eta_min": options.min_learning_rate,
        "base_lrs": [options.learning_rate],
        "last_epoch": np.array(step, np.int64),
        "_step_count": step + 1,
        "_is_initial": False,
        "_get_lr_called_within_step": False,
        "_last_lr": [np.array(learning_rate, np.float32)],
    }


def _need(saved: Mapping[str, Any], keys: tuple[str, ...], where: object, what: str) -> None:
    if missing := [key for key in keys if key not in saved]:
        raise UserError(f"{where} is no {what}: it lacks {', '.join(missing)}")


def _integer(value: object, what: str, where: object) -> int:
    """An integer that is stored as an int, a float or an array of one value."""
    array = np.asarray(value)
    if (
        array.size != 1
        or array.dtype.kind not in "iuf"
        or int(array.item()) != array.item()
        or array.item() < 0
    ):
        raise UserError(f"{where}: {what} is {value!r}, not a count")
    return int(array.item())
