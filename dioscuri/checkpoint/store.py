"""Checkpoints of a run: one folder per step, `step-00001000/`, that is either complete or absent.

A folder holds one safetensors file per group of tensors (`model`, `ema`, `optimizer`) under canonical names,
and `state.json`: the step, the caller's entries (data state, random state, resolved options, versions,
metrics), the engine's counters, the best step so far, the size and sha256 of each tensor file, and a sha256
of all these. It is written under a temporary name, flushed to disk file by file, and renamed last, so a
process that is killed at any moment leaves the earlier checkpoints intact. Only one process at a time writes
to a root: the caller holds the run's lock.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dioscuri.checkpoint.files import Damage, read_json, read_tensors, tensor_bytes, write_durably
from dioscuri.errors import UserError, kind_of
from dioscuri.files import finite

State = Mapping[str, Mapping[str, np.ndarray]]

FORMAT = 2
"""Format 1, of version 0.1.0, has no checksum of `state.json` itself."""
COUNTERS = "counters"
_INFO_FILE = "state.json"
_CHECKSUM = "sha256"
_RESERVED = ("format", "step", "best_step", COUNTERS, "files")
_NAME = re.compile(r"step-(\d{8,})")
_TEMPORARY, _REPLACED = ".writing-", ".replaced-"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Content of a folder. `warnings` has one line for every damaged folder that was skipped."""

    step: int
    state: dict[str, dict[str, np.ndarray]]
    info: dict[str, Any]
    path: Path
    warnings: tuple[str, ...] = ()


def steps(root: Path) -> list[int]:
    """Steps that have a folder under `root`, intact or not, in ascending order."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"checkpoints {root} cannot be read: {error.strerror}") from error
    return sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def folder(root: Path, step: int) -> Path:
    """Folder of a step's checkpoint."""
    return root / f"step-{step:08d}"


def save(
    root: Path, step: int, state: State, info: Mapping[str, Any], *, keep: int, best: int | None = None
) -> Path:
    """Write the checkpoint of `step`, then remove all but the newest `keep` and that of step `best`.

    `state` maps groups to tensors; its group `counters` holds single integers and goes into `state.json`.
    `info` is JSON-like and may hold numpy scalars. An older folder of the same step is replaced. A
    `UserError` if the disk is full or the folder cannot be written; all older checkpoints are then intact,
    and nothing half-written is left.
    """
    if keep < 1 or any(key in info for key in (*_RESERVED, _CHECKSUM)):
        raise ValueError(
            f"keep must be at least 1, and info may not hold {_RESERVED}: keep={keep}, info={list(info)}"
        )
    target, temporary = folder(root, step), root / f"{_TEMPORARY}{step:08d}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        clean(root)
        _write(temporary, step, state, {**info, "best_step": best})
        _put_in_place(temporary, target)
    except OSError as error:
        raise UserError(_writing_failed(root, step, error)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, step, keep, best)
    return target


def load(
    root: Path, step: int | Literal["best"] | None = None, *, groups: Collection[str] | None = None
) -> Checkpoint:
    """Read the newest undamaged checkpoint, that of a step, or the best one; all of its tensors, or `groups`.

    Every tensor file is compared with its recorded sha256. A damaged newest checkpoint is skipped with a line
    in `warnings`. A `UserError` if there is none, all are damaged, or the requested one is damaged or
    missing.
    """
    if step is not None:
        return _load_chosen(root, step, groups)
    warnings: list[str] = []
    for candidate in reversed(steps(root)):
        path = folder(root, candidate)
        try:
            return _read(path, candidate, groups, tuple(warnings))
        except Damage as damage:
            if path.is_dir():  # otherwise a training process has just removed it
                warnings.append(f"checkpoint {path} is damaged ({damage}): skipped")
    if warnings:
        raise UserError(f"no undamaged checkpoint in {root}: " + "; ".join(warnings))
    raise UserError(f"no checkpoint in {root}: train the run or convert a checkpoint into it first")


def clean(root: Path) -> None:
    """Remove a killed process's unfinished files, and restore a folder that it was about to replace."""
    for entry in sorted(root.glob(".*-*")):
        target = entry.with_name(entry.name.replace(_REPLACED, "step-"))
        if entry.name.startswith(_REPLACED) and not target.exists():
            entry.rename(target)
        elif entry.name.startswith((_TEMPORARY, _REPLACED)):
            shutil.rmtree(entry)


def _write(temporary: Path, step: int, state: State, info: Mapping[str, Any]) -> None:
    temporary.mkdir()
    files = {}
    for group, tensors in state.items():
        if group != COUNTERS:
            name = f"{group}.safetensors"
            files[name] = write_durably(temporary / name, tensor_bytes(tensors))
    counters = {name: int(value) for name, value in state.get(COUNTERS, {}).items()}
    content = {"format": FORMAT, "step": step, **info, COUNTERS: counters, "files": files}
    content = json.loads(json.dumps(finite(content), default=_plain, allow_nan=False))
    text = json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1)
    write_durably(temporary / _INFO_FILE, text.encode() + b"\n")
    _sync_folder(temporary)


def _put_in_place(temporary: Path, target: Path) -> None:
    aside = target.with_name(f"{_REPLACED}{target.name.removeprefix('step-')}")
    if target.exists():
        target.rename(aside)
    temporary.rename(target)
    _sync_folder(target.parent)
    if aside.exists():
        shutil.rmtree(aside)


def _prune(root: Path, step: int, keep: int, best: int | None) -> None:
    """Remove old folders. Incomplete ones do not count towards `keep`; steps after `step` are left alone."""
    older = [other for other in steps(root) if other <= step]
    complete = [other for other in older if _looks_complete(folder(root, other))]
    retained = {*complete[-keep:], step, best}
    try:
        for other in older:
            if other not in retained:
                aside = root / f"{_TEMPORARY}{other:08d}"
                folder(root, other).rename(aside)
                shutil.rmtree(aside)
    except OSError as error:
        raise UserError(
            f"old checkpoints in {root} cannot be removed ({error.strerror}): make the folder writable"
        ) from error


def _looks_complete(path: Path) -> bool:
    """Whether all files exist with their recorded sizes: a check cheap enough for every save."""
    try:
        files = read_json(path / _INFO_FILE)["files"]
        return all((path / name).stat().st_size == entry["bytes"] for name, entry in files.items())
    except (Damage, OSError, KeyError, TypeError, AttributeError):
        return False


def _load_chosen(root: Path, step: int | Literal["best"], groups: Collection[str] | None) -> Checkpoint:
    if step == "best":
        chosen = load(root, groups=()).info["best_step"]
        if chosen is None:
            raise UserError(f"no best checkpoint is recorded in {root}: give a step, or use the newest")
        step = int(chosen)
    path = folder(root, int(step))
    if not path.is_dir():
        known = ", ".join(map(str, steps(root))) or "none"
        raise UserError(f"no checkpoint of step {step} in {root}; there are: {known}")
    try:
        return _read(path, int(step), groups)
    except Damage as damage:
        raise UserError(f"checkpoint {path} is damaged ({damage}): choose another step") from damage


def _read(
    path: Path, step: int, groups: Collection[str] | None, warnings: tuple[str, ...] = ()
) -> Checkpoint:
    info = _read_info(path / _INFO_FILE, step)
    files = {Path(name): entry for name, entry in info["files"].items()}
    state = {
        file.stem: read_tensors(path / file.name, entry)
        for file, entry in files.items()
        if groups is None or file.stem in groups
    }
    state[COUNTERS] = {name: np.array(value, np.int64) for name, value in info[COUNTERS].items()}
    return Checkpoint(step=step, state=state, info=info, path=path, warnings=warnings)


def _read_info(path: Path, step: int) -> dict[str, Any]:
    """`state.json` without its checksum; `Damage` if it was changed or belongs to another step."""
    info = read_json(path)
    if info.get("format") not in (1, FORMAT):
        raise Damage(f"{_INFO_FILE} is of format {info.get('format')!r}, this program reads 1 to {FORMAT}")
    checksum = info.pop(_CHECKSUM, None)
    if info["format"] == FORMAT and checksum != _checksum(info):
        raise Damage(f"{_INFO_FILE} does not match its sha256")
    missing = [key for key in _RESERVED if key not in info]
    if missing or info["step"] != step:
        raise Damage(
            f"{_INFO_FILE} does not belong to step {step}" + (f", lacks {missing}" if missing else "")
        )
    _check_types(info)
    return info


def _check_types(info: Mapping[str, Any]) -> None:
    """Raise `Damage` for the first entry of a wrong type."""
    tables, numbers = (
        ("data", "metrics", "hparams", "best", "tokenizer"),
        ("best_step", "validated", "seconds", "cpu_seconds"),
    )
    kinds: dict[str, tuple[type, ...]] = {COUNTERS: (dict,), "files": (dict,), "classes": (list,)}
    kinds |= dict.fromkeys(tables, (dict, type(None))) | dict.fromkeys(numbers, (int, float, type(None)))
    for name, value in info.items():
        if isinstance(value, bool) or not isinstance(value, kinds.get(name, object)):
            raise Damage(f"{_INFO_FILE}: {name} is {kind_of(value)}")
    for name in ("data", "metrics", COUNTERS, "best"):
        if not all(isinstance(value, int | float) for value in (info.get(name) or {}).values()):
            raise Damage(f"{_INFO_FILE}: {name} holds something that is not a number")


def _checksum(content: Mapping[str, Any]) -> str:
    """Hash of JSON content, whatever its layout in the file."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _writing_failed(root: Path, step: int, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space left on the disk of {root}: checkpoint of step {step} was not written, "
            "older ones are intact; free some space and run again"
        )
    return (
        f"checkpoint of step {step} cannot be written to {root} ({error.strerror or error}), "
        "older ones are intact: make the folder writable and run again"
    )


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: object) -> object:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to {_INFO_FILE}")
