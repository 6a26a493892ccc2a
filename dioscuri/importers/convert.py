"""Conversion of the original programs' checkpoints and of published weights to runs, and back:
`dioscuri convert`."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dioscuri import schedules
from dioscuri.checkpoint import store
from dioscuri.checkpoint.base_model import whole_weights
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.flax_msgpack import read_flax
from dioscuri.checkpoint.pretrained import TOKENIZER, without_discriminator, write_folder
from dioscuri.checkpoint.tensor_files import is_flax, is_torch, read_config
from dioscuri.checkpoint.torch_files import read_torch
from dioscuri.contract import check_options
from dioscuri.errors import UserError, kind_of
from dioscuri.families.hierarchical_vae.options import HParams
from dioscuri.families.hierarchical_vae.plan import make_plan
from dioscuri.families.maskgit import transformers
from dioscuri.families.vqgan.trained import open_tokenizer
from dioscuri.files import check_plain, replacing
from dioscuri.hparams import GivenOptions, load
from dioscuri.hparams.archive import copy_path, rewritten, written_out
from dioscuri.hparams.loading import assemble
from dioscuri.hparams.overrides import parse
from dioscuri.hparams.reader import read
from dioscuri.hub import local_folder
from dioscuri.importers import efficient_vdvae, metroplex_json, vdvae
from dioscuri.importers.efficient_vdvae import Imported
from dioscuri.importers.layouts import check_target, write_layout
from dioscuri.importers.open_muse_yaml import converted
from dioscuri.importers.pipeline_layout import write_pipeline
from dioscuri.importers.published_run import (
    BASES,
    Request,
    make_published_run,
    published_config,
    split_run,
    write_run,
)
from dioscuri.places import here

TorchBytes = Callable[[Any], bytes]
Step = int | Literal["best"] | None
Source = tuple[Callable[..., efficient_vdvae.Imported], Any]  # importer and what it reads


def convert_configuration(source: Path, target: Path, overrides: Sequence[str]) -> None:
    """Write a configuration of Metroplex, or a training configuration of open-muse, as a `.cfg`.

    Prints a warning for each setting that is left out.
    """
    config = read_config(source)
    if metroplex_json.recognised(config):
        _convert_metroplex(config, source, target, overrides)
        return
    words, notes = converted(config, source, overrides)
    hparams = load(BASES["maskgit"], overrides, published=words)
    transformers.plan_of(hparams)
    header = [f"# {source.name} of open-muse.", "#", f"# Command:   sh torch_impl/train.sh {target}"]
    text = written_out(BASES["maskgit"], overrides, header, published=words)
    with replacing(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    for note in notes:
        print(f"warning: {source}: {note}")
    print(f"{target}: {source.name} as a configuration of family maskgit; [data] says where tokens lie")


def _convert_metroplex(
    config: Mapping[str, Any], source: Path, target: Path, overrides: Sequence[str]
) -> None:
    """Write a JSON configuration of one of Metroplex's programs as a `.cfg`."""
    header = [f"# {source.name} of Metroplex.", "#", f"# Command:   sh torch_impl/train.sh {target}"]
    with replacing(target) as temporary:
        values = _metroplex_options(config, source)
        temporary.write_text(metroplex_json.cfg_text(values, source.name), encoding="utf-8")
        document, words = replace(read(temporary), recorded=True), parse(overrides)
        try:
            hparams = assemble(document, words, here().home("torch"))
        except UserError as error:
            raise UserError(str(error).replace(str(temporary), str(source))) from error
        family = hparams.run.family
        check_options(hparams)
        temporary.write_text(rewritten(document, words, hparams, header), encoding="utf-8")
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
        raise UserError(
            f"{source} is not a complete configuration: {type(error).__name__} {error}"
        ) from error


def import_run(request: Request) -> None:
    """Make a run from published weights, or from a checkpoint with its full training state."""
    split_run(request.run)  # fails before anything is read if it cannot be a run's folder
    source = local_folder(request.source, choice=request.choice or "average")
    request = replace(request, source=source, config=published_config(source, request.config))
    if words := vdvae.log_words(source) if request.config is None else ():
        print(f"the log of {source} gives {', '.join(words)}")
        request = replace(request, overrides=(*words, *request.overrides))
    importer = None if request.config else _importer(request)
    if importer is None:
        print(*make_published_run(request), sep="\n")
        return
    if request.string_sorted_classes:
        raise UserError(f"{source} is not a SUNDAE: leave out --string-sorted-classes")
    make_run(request, importer)


def make_run(request: Request, importer: Callable[[Any], Imported]) -> None:
    """Write a checkpoint with its full state into a new run folder; `importer` takes the run's options."""
    assert request.cfg is not None
    log_root, name = split_run(request.run)
    overrides = (*request.overrides, f"run.name={name}")
    options = GivenOptions.read(request.cfg, overrides, home=log_root, runs=log_root).resolve()
    imported = importer(options.hparams)
    path = write_run(request.run, options, imported.step, imported.state, request.source.name)
    for message in options.messages:
        print(message)
    updates = int(imported.state["counters"]["updates"])
    print(f"{path}: {imported.step} batches, {updates} updates; continue with run.name={name}")


def _importer(request: Request) -> Callable[[Any], Imported] | None:
    """The importer of a source's training state, if it has one: a checkpoint of Efficient-VDVAE, or files of
    VD-VAE next to the optimiser's, unless only raw weights are requested."""
    source = request.source
    if request.cfg is None:
        return None
    if isinstance(load(request.cfg, request.overrides), HParams):
        read, content = _read(source)
        return lambda hparams: read(content, hparams, make_plan(hparams), source)
    if vdvae.optimizer_file(source) is not None and request.choice is None:
        return partial(vdvae.training_state, source)
    return None


def export_run(
    run: Path, target: Path, step: Step = None, layout: str = "", text_encoder: Path | None = None
) -> str:
    """Write the averaged weights of a run's checkpoint to a folder, with its tokenizer's if that exists, or
    in a project's published `layout`, with a text encoder as a whole pipeline of diffusers; return a line
    that says what was written."""
    check_target(target, layout)
    log_root, name = split_run(run)
    hparams = load(copy_path(log_root, name), twin=log_root)
    checkpoint = store.load(RunDirectory(run).checkpoints, step)
    weights = whole_weights(hparams, without_discriminator(checkpoint.state["ema"]))
    done = f"{target}: averaged weights of step {checkpoint.step} of {run}"
    masks_padding = getattr(hparams.data, "text_length", 0) > 0 and not hparams.data.attend_padding
    if layout == "diffusers" and masks_padding:
        print("note: diffusers does not mask the padding of texts, as the training of this run did")
    if text_encoder is not None:
        write_pipeline(target, hparams, weights, text_encoder)
        return f"{done} as a pipeline of diffusers, with tokenizer and text encoder"
    if layout:
        write_layout(target, layout, hparams, weights)
        return f"{done} in the layout of {layout}"
    write_folder(target, hparams, weights, origin=origin(checkpoint, hparams.run.name))
    path = Path(getattr(hparams.data, "tokenizer_path", ""))
    if path != Path() and not path.exists():
        return f"{done}; without a tokenizer, since {path} does not exist"
    if path != Path():
        tokenizer = open_tokenizer(path)
        of_tokenizer = origin(tokenizer.checkpoint, tokenizer.hparams.run.name)
        write_folder(target / TOKENIZER, tokenizer.hparams, tokenizer.weights, origin=of_tokenizer)
    return done


def origin(checkpoint: store.Checkpoint, run: str) -> dict[str, Any]:
    """Identifies the averaged weights of a run's checkpoint."""
    sha256 = checkpoint.info["files"]["ema.safetensors"]["sha256"]
    return {"sha256": sha256, "run": run, "weights": "ema", "step": checkpoint.step}


def export(run: Path, target: Path, step: Step, torch_bytes: TorchBytes) -> None:
    """Write a run's checkpoint to the file `target` in the PyTorch program's format."""
    log_root, name = split_run(run)
    directory = RunDirectory(run)
    hparams = _supported(load(copy_path(log_root, name)))
    checkpoint = store.load(directory.checkpoints, step)
    for warning in checkpoint.warnings:
        print(f"warning: {warning}")
    # That program continues its learning-rate curve from the value in the file.
    options = replace(hparams.optimizer, legacy_torch_cosine=True)
    rate = schedules.learning_rate(checkpoint.step, options)
    payload = efficient_vdvae.to_torch(
        checkpoint.state, checkpoint.step, hparams, make_plan(hparams), rate, checkpoint.path
    )
    content = torch_bytes(payload)
    with replacing(target) as temporary:
        temporary.write_bytes(content)
    print(f"{target}: step {checkpoint.step} of {run} in the layout of the PyTorch Efficient-VDVAE")


def _read(source: Path) -> Source:
    """Read a file of either program, recognised by its first bytes."""
    file = _newest_in(source) if source.is_dir() else source
    try:
        check_plain(file)
        with file.open("rb") as opened:
            head = opened.read(4)
    except OSError as error:
        raise UserError(f"checkpoint {file} cannot be read: {error.strerror}") from error
    if is_torch(head):
        saved = read_torch(file)
        if not isinstance(saved, dict):
            raise UserError(f"{file} holds {kind_of(saved)}, not a checkpoint of Efficient-VDVAE")
        return efficient_vdvae.from_torch, saved
    if is_flax(head):
        return efficient_vdvae.from_flax, read_flax(file)
    raise UserError(f"{file} is neither a PyTorch nor a flax checkpoint of Efficient-VDVAE, or it is empty")


def _newest_in(folder: Path) -> Path:
    """The JAX program's newest file in its checkpoint folder."""
    files = [path for path in folder.iterdir() if re.fullmatch(r"checkpoint_\d+", path.name)]
    if not files:
        raise UserError(f"{folder} holds no file checkpoint_<step>: give the checkpoint's file")
    return max(files, key=lambda path: int(path.name.removeprefix("checkpoint_")))


def _supported(hparams: Any) -> Any:
    if not isinstance(hparams, HParams):
        raise UserError(f"[run] family '{hparams.run.family}' has no original program to convert from or to")
    return hparams
