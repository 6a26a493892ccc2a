"""Make models with initial weights from a family's name or a `.cfg`, with options as keywords."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from dioscuri.contract import check_options
from dioscuri.errors import UserError, did_you_mean, quoted
from dioscuri.face.model import Model, face_of, open_network
from dioscuri.face.network import precision_of
from dioscuri.face.options import setting, settings_of
from dioscuri.face.usual import SHARED, Values
from dioscuri.files import read_path
from dioscuri.hparams.building import build
from dioscuri.hparams.loading import check_run_name
from dioscuri.hparams.loading import family as family_options
from dioscuri.hparams.overrides import merge
from dioscuri.hparams.reader import Setting, Settings, read, settings
from dioscuri.hparams.unread import check_twin
from dioscuri.inputs import read_seed
from dioscuri.library.load import check_tokenizer, load
from dioscuri.places import configuration, here
from dioscuri.registry import family_module, family_names

SOURCE = "new"


def new(
    twin: str,
    family: Path | str,
    *,
    seed: int,
    tokenizer: Any,
    device: Any,
    dtype: Any,
    options: Mapping[str, Any],
) -> Model:
    """See `dioscuri.torch.new`."""
    document, kind = _document(family)
    sections = get_type_hints(kind.HParams)
    name = kind.__name__.split(".")[-2]
    face = face_of(name)
    beside = _tokenizer(twin, tokenizer, device)
    given = settings_of(sections, options, SOURCE)
    given += _settings({"run": {"seed": read_seed(seed)}}, sections)
    given += [] if beside is None else _settings(_of_tokenizer(beside), sections, but=given)
    if not document:
        document = _usual(name, sections, given)
    merged = merge(document, given)
    hparams = build(kind.HParams, merged, SOURCE, Path.cwd())
    check_run_name(hparams.run.name, merged)
    check_twin(hparams, given, twin)
    hparams = _alone(face, hparams)
    if dtype is not None:
        hparams = replace(hparams, train=replace(hparams.train, precision=precision_of(dtype)))
    check_options(hparams)
    hparams = face.new_options(hparams)
    if beside is not None:
        if not face.needs_tokenizer(hparams):
            raise UserError(f"{SOURCE}: family '{name}' takes no tokenizer: leave it out")
        check_tokenizer(beside, hparams, twin)
    weights = face.initial_weights(hparams, hparams.run.seed)
    return face(open_network(twin, hparams, weights, device), tokenizer=beside)


def _document(family: Any) -> tuple[Settings, Any]:
    """Settings of a `.cfg` (none for a family's name), and the family's options."""
    known = family_names()
    if family in known:
        return {}, family_module(family, "options")
    path = read_path(family, f"{SOURCE} takes the name of a family or a .cfg file")
    if path.suffix != ".cfg" and not path.is_file():
        hint = did_you_mean(str(family), known)
        raise UserError(
            f"{SOURCE}: family {quoted(family)} is unknown{hint}: give {', '.join(known)}, or a .cfg file"
        )
    file, _ = configuration(path)
    document = settings(read(file), here().home("torch").absolute())
    return document, family_options(document)


def _tokenizer(twin: str, given: Any, device: Any) -> Model | None:
    return given if given is None or isinstance(given, Model) else load(twin, given, device=device)


def _of_tokenizer(tokenizer: Any) -> Values:
    """Options of a model of a tokenizer's tokens."""
    data = tokenizer.hparams.data
    names = ("grid", "sequence_length", "codebook_size")
    sides = {name: getattr(tokenizer, name) for name in names if getattr(tokenizer, name, 0)}
    return {"data": {"target_res": data.target_res, "channels": data.channels, **sides}}


def _usual(name: str, sections: Mapping[str, Any], given: list[Setting]) -> Settings:
    """The default values of a family, some of which depend on the given ones."""
    face = face_of(name)
    known: dict[str, dict[str, Any]] = {section: dict(values) for section, values in SHARED.items()}
    for item in given:
        known.setdefault(item.section, {})[item.option] = item.value()
    for section, values in face.usual(known).items():
        known.setdefault(section, {}).update(values)
    usual = _settings(known, sections) + _settings({"run": {"family": name}}, sections)
    return merge({}, usual)


def _settings(values: Values, sections: Mapping[str, Any], but: Sequence[Setting] = ()) -> list[Setting]:
    """Settings for values of options that the family has, except those in `but`; nothing may read them."""
    there = {(item.section, item.option) for item in but}
    return [
        replace(setting(section, option, value, SOURCE), recorded=True)
        for section, options in values.items()
        if section in sections
        for option, value in options.items()
        if option in sections[section].__dataclass_fields__ and (section, option) not in there
    ]


def _alone(face: type[Model], hparams: Any) -> Any:
    """Options of a model whose tokenizer, if any, is a separate model."""
    if not hasattr(hparams.data, "tokenizer_path"):
        return hparams
    data = replace(hparams.data, tokenizer_path="")
    if face.needs_tokenizer(hparams):
        data = replace(data, dataset_source="tokens")
    return replace(hparams, data=data)
