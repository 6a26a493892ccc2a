"""Runs that start from published weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dioscuri.checkpoint import pretrained, store
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.tensor_files import read_config, read_weights
from dioscuri.checkpoint.weight_files import Choice, weights_digest
from dioscuri.contract import family_of
from dioscuri.errors import UserError
from dioscuri.hparams import GivenOptions, load, to_json
from dioscuri.hparams.archive import Resolution
from dioscuri.importers.published import FAMILIES, Published, canonical_weights, published_training, recognise
from dioscuri.places import examples
from dioscuri.versions import versions

BASES = {family: examples() / family / "published.cfg" for family in FAMILIES}
"""Options that published configurations do not contain, by family."""


def published_config(source: Path, config: Path | None) -> Path | None:
    """The given configuration, else the one next to the weights, if any."""
    if config is not None:
        return config
    path = source / "config.json" if source.is_dir() else None
    return path if path is not None and path.is_file() else None


@dataclass(frozen=True, kw_only=True)
class Request:
    """A run to make from `source`, a file or folder of weights, in the folder `run`.

    The published configuration `config` describes the architecture, `cfg` everything else, or, without
    `config`, the architecture too. For `choice` see `read_weights`, for `string_sorted_classes`
    `canonical_weights`.
    """

    source: Path
    run: Path
    config: Path | None = None
    cfg: Path | None = None
    overrides: Sequence[str] = ()
    choice: Choice | None = None
    string_sorted_classes: bool = False


def make_published_run(request: Request) -> list[str]:
    """Write published weights into a new run; return lines that say what was done.

    A `UserError` names a mismatch; then no run is left behind.
    """
    config = request.config
    read = cache(lambda: read_weights(request.source, request.choice))
    described = None
    if config is not None:
        described = recognise(read_config(config), config, request.overrides, lambda: read().arrays)
    with TemporaryDirectory() as folder:
        base = _base(described, request, Path(folder))
        log_root, name = split_run(request.run)
        published: list[str] = []
        if described is not None:
            published += (*described.overrides, *(() if request.cfg else described.sampling))
        if tokenizer := pretrained.tokenizer_folder(request.source):
            published.append(f"data.tokenizer_path={tokenizer.absolute()}")
        words = [*request.overrides, f"run.name={name}"]
        given = GivenOptions.read(base, words, home=log_root, runs=log_root, published=published)
        hparams = given.hparams
        native = described is not None and described.native
        if hparams.run.family not in FAMILIES and not native:
            raise UserError(f"{base}: family '{hparams.run.family}' has no published weights of this kind")
        weights = canonical_weights(
            read().arrays,
            hparams,
            read().source,
            native=native,
            string_sorted_classes=request.string_sorted_classes,
        )
        discriminator, buffers = ({}, {}) if native else published_training(read().arrays, hparams)
        weights |= family_of(hparams).training_values(hparams) | discriminator
        state = {"model": weights, "ema": weights} | ({"buffers": buffers} if buffers else {})
        digest = weights_digest(request.source, request.choice or "average")
        path = write_run(request.run, given.resolve(), 0, state, read().source.name, digest)
    n = sum(array.size for array in weights.values())
    done = f"{path}: {len(weights)} tensors, {n:,} parameters; use it with run.name={hparams.run.name}"
    return [read().note, *(_notes(described) if described else ()), done]


def _notes(described: Published) -> list[str]:
    """What the configuration says that the run does not hold."""
    calls = described.calls.items()
    options = [f"{call}({name}={value})" for call, given in calls for name, value in given.items()]
    left_out = [f"left out, as a run holds no options of calls: {', '.join(options)}"] if options else []
    return [*described.notes, *left_out]


def split_run(run: Path) -> tuple[Path, str]:
    """The folder of all runs, and the run's name."""
    path = run.absolute()
    if not path.name.startswith("logs-") or path.name == "logs-":
        raise UserError(f"{run} is not a run's folder: it must be named logs-<run.name>")
    return path.parent, path.name.removeprefix("logs-")


def write_run(
    folder: Path,
    options: Resolution,
    step: int,
    state: store.State,
    imported_from: str,
    imported_sha256: str = "",
) -> Path:
    """Write a run's options and its only checkpoint; a `UserError` if it has one already."""
    run = RunDirectory(folder.absolute())
    with run.locked():
        if present := store.steps(run.checkpoints):
            raise UserError(
                f"run {run.path} already has a checkpoint of step {present[-1]}: choose another --run"
            )
        info = {
            "data": None,
            "random": {"seed": options.hparams.run.seed, "step": step},
            "hparams": to_json(options.hparams),
            "versions": versions(),
            "metrics": {},
            "imported_from": imported_from,
            "imported_sha256": imported_sha256,
        }
        options.save()
        return store.save(run.checkpoints, step, state, info, keep=1)


def _base(described: Published | None, request: Request, folder: Path) -> Path:
    """The `.cfg` that published options override; if none exists, a minimal one is written to `folder`."""
    cfg, source = request.cfg, request.source
    if described is None and cfg is None:
        raise UserError(
            f"{source} does not state its architecture: give its configuration with --config, or a .cfg of "
            "the same architecture with --cfg (egs/ has one per published model)"
        )
    if described is None or cfg is not None:
        base = cfg or folder
    elif described.native:
        base = folder / "options.cfg"
        base.write_text(f"# {source}\n\n[run]\nfamily = {described.family}\nname = published\n")
        return base
    else:
        base = BASES[described.family]
    family = load(base).run.family
    if described is not None and family != described.family:
        raise UserError(
            f"{base} has family '{family}', but the published model has family '{described.family}'"
        )
    return base
