"""VD-VAE (openai/vdvae): converts its weights and training state.

Training writes `<name>-model.th`, `-model-ema.th`, `-opt.th` and a copy of `log.jsonl` to one folder.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.compare import check_finite
from dioscuri.checkpoint.pretrained import option_words
from dioscuri.checkpoint.tensor_files import read_weights
from dioscuri.checkpoint.torch_files import read_torch
from dioscuri.errors import UserError
from dioscuri.families.metroplex.options import HParams
from dioscuri.families.metroplex.plan import make_plan
from dioscuri.importers.efficient_vdvae import Imported
from dioscuri.importers.metroplex import Rules, Weights, converted

_NAME = re.compile(r"(.+)-model(?:-ema)?\.th")

_MAX_LINE = 1 << 16  # bytes

OPTIONS = (
    "width", "enc_blocks", "dec_blocks", "custom_width_str", "zdim", "bottleneck_multiple", "no_bias_above",
    "num_mixtures",
)  # fmt: skip
"""Options of `[model]` that the log contains under the same names."""

RULES: Rules = (
    (r"^encoder\.in_conv\.", "bottom_up.input_conv."),
    (r"^encoder\.enc_blocks\.(\d+)\.", r"bottom_up.blocks.\1.cell."),
    (r"^decoder\.dec_blocks\.(\d+)\.enc\.", r"top_down.blocks.\1.posterior."),
    (r"^decoder\.dec_blocks\.(\d+)\.prior\.", r"top_down.blocks.\1.prior."),
    (r"^decoder\.dec_blocks\.(\d+)\.resnet\.", r"top_down.blocks.\1.residual."),
    (r"^decoder\.dec_blocks\.(\d+)\.z_proj\.", r"top_down.blocks.\1.z_projection."),
    (r"^decoder\.(gain|bias)$", r"top_down.\1"),
    (r"^decoder\.out_net\.out_conv\.", "top_down.output_conv."),
    (r"\.c([1-4])\.", lambda match: f".convs.{int(match[1]) - 1}."),
)


def from_vdvae(arrays: Mapping[str, np.ndarray], hparams: HParams) -> Weights:
    """Weights of openai/vdvae (`*-model.th` or `*-model-ema.th`) as canonical tensors.

    Its learned initial maps are numbered from the coarsest on.
    """
    plan = make_plan(hparams)
    starts: Rules = [
        (rf"^decoder\.bias_xs\.{i}$", f"top_down.start.{side}") for i, side in enumerate(plan.start)
    ]
    return converted(arrays, (*RULES, *starts), hparams, plan, "weights")


def optimizer_file(source: Path) -> Path | None:
    """The optimiser's file next to a file of weights, if it exists."""
    named = _NAME.fullmatch(source.name)
    path = source.with_name(f"{named[1]}-opt.th") if named else source
    return path if named and path.is_file() else None


def training_state(source: Path, hparams: HParams) -> Imported:
    """Weights, averages and moments from `source` and the files next to it, which include `optimizer_file`.

    A `UserError` names what is missing or does not belong to the others.
    """
    name = source.name[: source.name.rindex("-model")]
    files = {kind: source.with_name(f"{name}-{kind}.th") for kind in ("model", "model-ema", "opt")}
    raw = read_weights(files["model"]).arrays
    average = read_weights(files["model-ema"]).arrays if files["model-ema"].is_file() else raw
    moments, updates = _moments(read_torch(files["opt"]), list(raw), files["opt"])
    state = {"model": from_vdvae(raw, hparams), "ema": from_vdvae(average, hparams)}
    optimizer = {
        f"{moment}.{ours}": array
        for moment, arrays in moments.items()
        for ours, array in from_vdvae(arrays, hparams).items()
    }
    for tensors in (*state.values(), optimizer):
        check_finite(tensors, source)
    step = max(updates, _step(source, name))
    counters = {"updates": updates, "skips": step - updates, "skips_in_row": 0}
    counted = {counter: np.array(value, np.int64) for counter, value in counters.items()}
    return Imported(step=step, state={**state, "optimizer": optimizer, "counters": counted})


def _moments(saved: Any, names: list[str], where: Path) -> tuple[dict[str, dict[str, np.ndarray]], int]:
    """Both moments of Adam under the original names, and the number of updates,
    which apex stores in the group.

    The optimiser numbers parameters in the order of the weights' file.
    """
    try:
        group, entries = saved["param_groups"][0], saved["state"]
        moments = {
            moment: {name: np.asarray(entries[index][moment]) for index, name in enumerate(names)}
            for moment in ("exp_avg", "exp_avg_sq")
        }
        updates = int(np.max(np.asarray(entries[0].get("step", group.get("step")))))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} is not a state of Adam for these weights: {type(error).__name__} {error}"
        ) from error
    if len(entries) != len(names) or updates < 0:
        raise UserError(f"{where} has {len(entries)} tensors, but the weights have {len(names)}")
    return moments, updates


def log_words(source: Path) -> tuple[str, ...]:
    """The network's options, from the log next to a file of weights, as words `section.option=value`."""
    known: dict[str, Any] = {}
    for line in _log(source):
        if "key" in line and "value" in line:
            line = {line["key"]: line["value"]}
        known |= {name: line[name] for name in OPTIONS if line.get(name) is not None}
    return option_words({"model": known})


def _step(source: Path, name: str) -> int:
    """Number of batches, from the log, else from the file's name, else 0."""
    steps = [line["step"] for line in _log(source) if type(line.get("step")) is int]
    named = re.search(r"iter-(\d+)", name)
    step = max(steps, default=int(named[1]) if named else 0)
    return step if 0 <= step < 10**12 else 0


def _log(source: Path) -> list[dict[str, Any]]:
    """The records of a training log, which lies next to the weights under their name or as `log.jsonl`."""
    named = _NAME.fullmatch(source.name)
    logs = [source.with_name(f"{named[1]}-log.jsonl"), source.with_name("log.jsonl")] if named else []
    lines: list[dict[str, Any]] = []
    for log in [log for log in logs if log.is_file()][:1]:
        with log.open("rb") as stream, suppress(OSError):
            while line := stream.readline(_MAX_LINE):
                with suppress(ValueError, RecursionError):
                    value = json.loads(line)
                    lines += [value] if isinstance(value, dict) else []
    return lines
