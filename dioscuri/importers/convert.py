"""Runs of the original programs' checkpoints and of published weights, and back: `dioscuri convert`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from dioscuri import schedules
from dioscuri.checkpoint import store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.flax_msgpack import read_flax
from dioscuri.checkpoint.pretrained import write_folder
from dioscuri.checkpoint.tensor_files import ReadTorch, read_config
from dioscuri.contract import check_options
from dioscuri.errors import UserError
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.maskgit import transformers
from dioscuri.files import replacing
from dioscuri.hparams import load, resolve, to_json
from dioscuri.hparams.archive import copy_path, written_out
from dioscuri.hub import local_folder
from dioscuri.importers import efficient_vdvae, metroplex_json
from dioscuri.importers.open_muse_yaml import converted
from dioscuri.importers.published_run import BASES, make_published_run, published_config
from dioscuri.versions import versions

TorchBytes = Callable[[Any], bytes]
Step = int | Literal["best"] | None
Source = tuple[Callable[..., efficient_vdvae.Imported], Any]  # importer and what it reads


def convert_configuration(source: Path, target: Path, overrides: Sequence[str]) -> None:
    """Write a configuration of Metroplex, or a training configuration of open-muse, as a `.cfg`.

    Prints what is unknown and left out.
    """
    config = read_config(source)
    if metroplex_json.recognised(config):
        _convert_metroplex(config, source, target, overrides)
        return
    words, unknown = converted(config, source)
    given = load(BASES["maskgit"], [*words, *overrides])
    transformers.make_plan(given.model, given.data.grid, given.data.codebook_size)
    header = [f"# {source.name} of open-muse.", "#", f"# Command:   sh torch_impl/train.sh {target}"]
    text = written_out(BASES["maskgit"], [*words, *overrides], header)
    with replacing(target) as beside:
        beside.write_text(text, encoding="utf-8")
    for key in unknown:
        print(f"warning: {source}: '{key}' is unknown and left out")
    print(f"{target}: {source.name} as a configuration of family maskgit; [data] says where tokens lie")


def _convert_metroplex(
    config: Mapping[str, Any], source: Path, target: Path, overrides: Sequence[str]
) -> None:
    """Write a JSON configuration of one of Metroplex's programs as a `.cfg`."""
    header = [f"# {source.name} of Metroplex.", "#", f"# Command:   sh torch_impl/train.sh {target}"]
    with replacing(target) as beside:
        values = _metroplex_options(config, source)
        beside.write_text(metroplex_json.cfg_text(values, source.name), encoding="utf-8")
        try:
            hparams = load(beside, overrides)
        except UserError as error:
            raise UserError(str(error).replace(str(beside), str(source))) from error
        family = hparams.run.family
        check_options(hparams)
        beside.write_text(written_out(beside, overrides, header), encoding="utf-8")
    for remark in metroplex_json.remarks(config):
        print(f"warning: {source}: {remark}")
    print(f"{target}: {source.name} as a configuration of family {family}; [data] says where pictures lie")


def _metroplex_options(config: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """Options of a JSON configuration of Metroplex; a `UserError` names its file."""
    try:
        return metroplex_json.options(config, source.stem)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is no whole configuration: {type(error).__name__} {error}") from error


def import_run(
    source: Path,
    config: Path | None,
    cfg: Path | None,
    overrides: Sequence[str],
    run: Path,
    read_torch: ReadTorch,
    *,
    string_sorted_classes: bool,
) -> None:
    """A run of published weights or of a checkpoint of Efficient-VDVAE, as the configurations tell."""
    source = local_folder(source)
    published = published_config(source, config)
    if published is None and cfg and load(cfg, overrides).run.family == "hierarchical_vae":
        if string_sorted_classes:
            raise UserError(f"{source} is no SUNDAE: leave out --string-sorted-classes")
        make_run(source, cfg, overrides, run, read_torch)
        return
    folder_and_name, by_text = split_run(run), string_sorted_classes
    print(
        make_published_run(
            source, published, cfg, overrides, folder_and_name, read_torch, string_sorted_classes=by_text
        )
    )


def make_run(source: Path, cfg: Path, overrides: Sequence[str], run: Path, read_torch: ReadTorch) -> None:
    """Write the checkpoint of an original program into the new run folder `run`."""
    log_root, name = split_run(run)
    overrides = (*overrides, f"run.name={name}")
    importer, content = _read(source, read_torch)
    given = load(cfg, overrides)
    importer(content, given, make_plan(given), source)
    directory = RunDirectory.of(log_root, name)
    with directory.locked():
        if present := store.steps(directory.checkpoints):
            raise UserError(f"run {run} has a checkpoint of step {present[-1]} already: choose another --run")
        options = resolve(cfg, overrides, log_root)
        hparams = options.hparams
        imported = importer(content, hparams, make_plan(hparams), source)
        info = {
            "data": None,
            "random": {"seed": hparams.run.seed, "step": imported.step},
            "hparams": to_json(hparams),
            "versions": versions(),
            "metrics": {},
            "imported_from": source.name,
        }
        options.save()
        path = store.save(directory.checkpoints, imported.step, imported.state, info, keep=1)
    for message in options.messages:
        print(message)
    updates = int(imported.state["counters"]["updates"])
    print(
        f"{path}: {imported.step} batches, {updates} updates; the run goes on from here with run.name={name}"
    )


def export_run(run: Path, target: Path, step: Step = None) -> str:
    """Write the averaged weights of a run's checkpoint to a folder; returns what was done."""
    log_root, name = split_run(run)
    hparams = load(copy_path(log_root, name), twin=log_root)
    checkpoint = store.load(RunDirectory(run).checkpoints, step)
    weights = {k: v for k, v in checkpoint.state["ema"].items() if not k.startswith("discriminator.")}
    write_folder(target, hparams, weights)
    return f"{target}: averaged weights of step {checkpoint.step} of {run}"


def export(run: Path, target: Path, step: Step, torch_bytes: TorchBytes) -> None:
    """Write a checkpoint of a run to the file `target`, as the PyTorch program saves it."""
    log_root, name = split_run(run)
    directory = RunDirectory(run)
    hparams = _supported(load(copy_path(log_root, name)))
    checkpoint = store.load(directory.checkpoints, step)
    for warning in checkpoint.warnings:
        print(f"warning: {warning}")
    # That program goes on along its own curve, which starts from the value it finds here.
    options = replace(hparams.optimizer, legacy_torch_cosine=True)
    rate = schedules.learning_rate(checkpoint.step, options)
    payload = efficient_vdvae.to_torch(
        checkpoint.state, checkpoint.step, hparams, make_plan(hparams), rate, checkpoint.path
    )
    content = torch_bytes(payload)
    with replacing(target) as beside:
        beside.write_bytes(content)
    print(f"{target}: step {checkpoint.step} of {run} in the layout of the PyTorch Efficient-VDVAE")


def _read(source: Path, read_torch: ReadTorch) -> Source:
    """Tell the two programs' files apart by their first bytes, and read."""
    file = _newest_in(source) if source.is_dir() else source
    try:
        with file.open("rb") as opened:
            head = opened.read(4)
    except OSError as error:
        raise UserError(f"checkpoint {file} cannot be read: {error.strerror}") from error
    is_zip, is_pickle = head.startswith(b"PK"), head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"
    if is_zip or is_pickle:
        saved = read_torch(file)
        if not isinstance(saved, dict):
            raise UserError(f"{file} holds a {type(saved).__name__}, no checkpoint of Efficient-VDVAE")
        return efficient_vdvae.from_torch, saved
    if head and (0x81 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF)):
        return efficient_vdvae.from_flax, read_flax(file)
    raise UserError(f"{file} is neither a PyTorch nor a flax checkpoint of Efficient-VDVAE, or it is empty")


def _newest_in(folder: Path) -> Path:
    """The JAX program's newest file in its checkpoint folder."""
    files = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint_\d+", path.name)]
    if not files:
        raise UserError(f"{folder} holds no file checkpoint_<step>: give the checkpoint's file")
    return max(files, key=lambda path: int(path.name.removeprefix("checkpoint_")))


def split_run(run: Path) -> tuple[Path, str]:
    """Folder that holds the runs, and the run's name."""
    path = run.absolute()
    if not path.name.startswith("logs-") or path.name == "logs-":
        raise UserError(f"{run} is not the folder of a run: it must be called logs-<run.name>")
    return path.parent, path.name.removeprefix("logs-")


def _supported(hparams: Any) -> Any:
    if hparams.run.family != "hierarchical_vae":
        raise UserError(f"[run] family '{hparams.run.family}' has no original program to convert from or to")
    return hparams
