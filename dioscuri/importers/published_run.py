"""Runs that begin with published weights."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.tensor_files import ReadTorch, read_config, read_weights, weights_file
from dioscuri.errors import UserError
from dioscuri.families.vqgan import discriminators
from dioscuri.hparams import load, resolve, to_json
from dioscuri.importers.published import FAMILIES, Published, canonical_weights, published_training, recognise
from dioscuri.places import examples
from dioscuri.plans.parameters import initial_values
from dioscuri.versions import versions

BASES = {family: examples() / family / "published.cfg" for family in FAMILIES}
"""Everything of a run's options that published configurations do not tell."""


def published_config(source: Path, config: Path | None) -> Path | None:
    """The configuration given, or that beside the weights, if any."""
    if config is not None:
        return config
    beside = source / "config.json" if source.is_dir() else None
    return beside if beside is not None and beside.is_file() else None


def make_published_run(
    source: Path,
    config: Path | None,
    cfg: Path | None,
    overrides: Sequence[str],
    run: tuple[Path, str],
    read_torch: ReadTorch,
    *,
    string_sorted_classes: bool = False,
) -> str:
    """Write published weights into a new run (folder that holds it, name); returns what was done.

    The published configuration `config` tells the architecture, `cfg` everything else or, without `config`,
    the architecture, too. `string_sorted_classes` is explained at `canonical_weights`. A `UserError` says
    what does not fit; no run is then left.
    """
    log_root, name = run
    file = weights_file(source)
    described = None if config is None else recognise(read_config(config), config)
    with TemporaryDirectory() as folder:
        base = _base(described, cfg, file, Path(folder))
        words = [*(described.overrides if described else ()), *overrides, f"run.name={name}"]
        directory, by_text = RunDirectory.of(log_root, name), string_sorted_classes
        return _write(base, words, described, file, read_torch, directory, string_sorted_classes=by_text)


def _write(
    base: Path,
    words: Sequence[str],
    described: Published | None,
    file: Path,
    read_torch: ReadTorch,
    directory: RunDirectory,
    *,
    string_sorted_classes: bool,
) -> str:
    hparams = load(base, words)
    own = described is not None and described.own
    if hparams.run.family not in FAMILIES and not own:
        raise UserError(f"{base}: family '{hparams.run.family}' has no published weights of this kind")
    arrays = read_weights(file, read_torch)
    weights = canonical_weights(arrays, hparams, file, own=own, string_sorted_classes=string_sorted_classes)
    critic, buffers = ({}, {}) if own else published_training(arrays, hparams)
    weights |= _discriminator(hparams) | critic
    with directory.locked():
        if present := store.steps(directory.checkpoints):
            raise UserError(
                f"run {directory.path} has a checkpoint of step {present[-1]} already: choose another --run"
            )
        options = resolve(base, words, directory.path.parent)
        info = {
            "data": None,
            "random": {"seed": hparams.run.seed, "step": 0},
            "hparams": to_json(options.hparams),
            "versions": versions(),
            "metrics": {},
            "imported_from": file.name,
        }
        options.save()
        state = {"model": weights, "ema": weights} | ({"buffers": buffers} if buffers else {})
        path = store.save(directory.checkpoints, 0, state, info, keep=1)
    n = sum(array.size for array in weights.values())
    return f"{path}: {len(weights)} tensors, {n:,} parameters; use it with run.name={hparams.run.name}"


def _base(described: Published | None, cfg: Path | None, file: Path, folder: Path) -> Path:
    """The file whose options published ones are put over; `folder` is for one that says the family alone."""
    if described is None and cfg is None:
        raise UserError(
            f"{file} does not tell its architecture: give its configuration with --config, or a .cfg of the "
            "same architecture with --cfg (egs/ has one for each published model)"
        )
    if described is None or cfg is not None:
        base = cfg or folder
    elif described.own:
        base = folder / "options.cfg"
        base.write_text(f"# {file.parent}\n\n[run]\nfamily = {described.family}\nname = published\n")
        return base
    else:
        base = BASES[described.family]
    family = load(base).run.family
    if described is not None and family != described.family:
        raise UserError(f"{base} is of family '{family}', the published model of family '{described.family}'")
    return base


def _discriminator(hparams: Any) -> dict[str, np.ndarray]:
    """First values of what training needs beside the published tensors."""
    if hparams.run.family != "vqgan":
        return {}
    data = hparams.data
    plan = discriminators.make_plan(hparams.discriminator, data.target_res, data.channels)
    return initial_values(discriminators.parameter_table(plan), hparams.run.seed)
