"""Each run's copy of its options, `logs-<run.name>/hparams-<run.name>.cfg`.

The first start writes it, with the comments. Later the copy overrides the given file, and the command line
overrides both. Training writes changes from the command line into the copy; synthesis does not, since its
options hold for one call. Options that determine the architecture cannot change.
"""

from collections.abc import Iterator, Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from dioscuri.errors import UserError, shorten
from dioscuri.files import replacing
from dioscuri.hparams import overrides as command_line
from dioscuri.hparams.loading import assemble, family
from dioscuri.hparams.reader import Document, Entry, Section, Setting, fold, read, render, settings
from dioscuri.hparams.schema import names
from dioscuri.hparams.unread import unread_options
from dioscuri.places import here, runs_folder


@dataclass(frozen=True)
class Resolution:
    """The options of a run, messages about which source decided, and the new content of its copy."""

    hparams: Any
    messages: list[str]
    _path: Path
    _document: Document | None = None

    def save(self) -> None:
        """Write the run's copy if it is new or an override changes it; a `UserError` if that fails."""
        if self._document is not None:
            with replacing(self._path) as temporary:
                temporary.write_text(render(self._document), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class GivenOptions:
    """The options that a configuration and overrides give; a run without a copy has these."""

    hparams: Any
    runs: Path
    """The folder of the runs."""
    overrides: Sequence[Setting]
    _document: Document
    _home: Path

    @classmethod
    def read(
        cls,
        cfg_path: Path | str,
        words: Sequence[str],
        *,
        home: Path,
        runs: Path | None = None,
        cwd: Path | None = None,
        published: Sequence[str] = (),
    ) -> "GivenOptions":
        """Read a `.cfg` and the overrides `words`. Relative paths of the `.cfg` start from `home`, the twin's
        folder. The runs lie in `runs`, by default as `run.root` says. `published`: see `load`. A `UserError`
        if an option is wrong."""
        overrides = [*command_line.parse(published, cwd, recorded=True), *command_line.parse(words, cwd)]
        document = read(Path(cfg_path))
        hparams = assemble(document, overrides, home, runs)
        runs = runs_folder(hparams.run.root, home) if runs is None else runs
        return cls(hparams=hparams, runs=runs, overrides=overrides, _document=document, _home=home)

    def resolve(self) -> Resolution:
        """Determine the run's options without writing anything; its copy, if there is one, wins.

        A `UserError` if the architecture of an existing run would change.
        """
        path = copy_path(self.runs, self.hparams.run.name)
        return self._merged_with(path) if path.exists() else self._of_a_new_run(path)

    def _of_a_new_run(self, path: Path) -> Resolution:
        messages = [_override_line(word, self.hparams, None) for word in self.overrides]
        copy = _edited(self._document, self.overrides, self.hparams, None)
        if self._home.absolute() != self.runs.absolute():
            copy = _with_absolute_paths(copy, self.hparams, self.runs)
        return Resolution(self.hparams, messages, path, copy)

    def _merged_with(self, path: Path) -> Resolution:
        saved, words = read(path), self.overrides
        _check_family(saved, words, self.runs)
        before = assemble(saved, (), self._home, self.runs)
        after = assemble(saved, words, self._home, self.runs) if words else before
        if before.run.name != self.hparams.run.name:
            raise UserError(
                f"{path}: [run] name is '{before.run.name}': this copy belongs to '{self.hparams.run.name}'"
            )
        _check_architecture(before, after, saved, path)
        differences = list(_differences(after, self.hparams))
        messages = _difference_lines(differences, path, self._document.source)
        messages += [_override_line(word, after, before) for word in words]
        document = _edited(saved, words, after, before) if before != after else None
        return Resolution(after, messages, path, document)


def written_out(
    cfg_path: Path, overrides: Sequence[str], header: Sequence[str], *, published: Sequence[str] = ()
) -> str:
    """Text of a configuration with the overrides inserted and `header` as the comment at its top.

    `published`: see `load`. A `UserError` if an option is wrong.
    """
    words = [*command_line.parse(published, recorded=True), *command_line.parse(overrides)]
    document = read(cfg_path)
    return rewritten(document, words, assemble(document, words, here().home("torch")), header)


def rewritten(document: Document, words: Sequence[Setting], hparams: Any, header: Sequence[str]) -> str:
    """Text of a document with the words that lead to `hparams` inserted, and `header` at its top.

    Options that nothing reads are left out.
    """
    document = _edited(document, words, hparams, None)
    for unread in unread_options(hparams):
        document = _without_option(document, unread.section, unread.declared)
    first, *others = document.sections
    return render(replace(document, sections=(replace(first, comments=tuple(header)), *others)))


def copy_path(log_root: Path, name: str) -> Path:
    """Path of the copy of the run `name`."""
    return log_root / f"logs-{name}" / f"hparams-{name}.cfg"


def to_json(hparams: Any) -> dict[str, dict[str, Any]]:
    """Resolved values, section -> option -> value, as read back from JSON: tuples are lists."""
    return {
        section: {declared.name: _listed(getattr(options, declared.name)) for declared in fields(options)}
        for section, options in _sections(hparams)
    }


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple) else value


def _sections(hparams: Any) -> list[tuple[str, Any]]:
    return [(section.name, getattr(hparams, section.name)) for section in fields(hparams)]


def _differences(first: Any, second: Any) -> Iterator[tuple[str, str, Any, Any]]:
    """(section, option, first value, second value) where two runs' options differ."""
    one, two = to_json(first), to_json(second)
    for section in {**one, **two}:
        left, right = one.get(section, {}), two.get(section, {})
        for option in {**left, **right}:
            # The run's folder was known before its copy was read.
            if left.get(option) != right.get(option) and (section, option) != ("run", "root"):
                yield section, option, left.get(option), right.get(option)


def _check_family(saved: Document, words: Sequence[Setting], log_root: Path) -> None:
    """Check the family before the options, all of which would be unknown in another family."""
    current = settings(saved, log_root)
    if family(command_line.merge(current, words)) is not family(current):
        raise UserError(
            f"{command_line.SOURCE}: [run] family of an existing run cannot change: choose another run.name"
        )


def _check_architecture(before: Any, after: Any, saved: Document, path: Path) -> None:
    fixed = family(settings(saved, path.parent)).ARCHITECTURE
    free = {
        (section, declared.name)
        for section, options in _sections(after)
        for declared in fields(options)
        if declared.metadata["free"]
    }
    for section, option, old, new in _differences(before, after):
        if (section in fixed or f"{section}.{option}" in fixed) and (section, option) not in free:
            raise UserError(
                f"{command_line.SOURCE}: [{section}] {option} = {shorten(new)} would change the architecture "
                f"of the run '{before.run.name}', which has {shorten(old)}: choose another run.name, or "
                f"remove the run with 'sh reset.sh {before.run.name}'"
            )


def _difference_lines(
    differences: Sequence[tuple[str, str, Any, Any]], path: Path, cfg_path: Path | str
) -> list[str]:
    """One line that lists the options in which the run's copy overrides the given file, if there are any."""
    items = [
        f"[{section}] {option} = {shorten(saved)} (not {shorten(given)})"
        for section, option, saved, given in differences
    ]
    return [f"the run's copy {path} overrides {cfg_path}: {', '.join(items)}"] if items else []


def _override_line(word: Setting, after: Any, before: Any | None) -> str:
    section, declared = _declaration(word, after)
    value = _value(after, section, declared)
    old = value if before is None else _value(before, section, declared)
    was = "" if old == value else f" (was {shorten(old)})"
    return f"[{section}] {declared.name}: {shorten(value)} from the {command_line.SOURCE}{was}"


def _declaration(word: Setting, hparams: Any) -> tuple[str, Field[Any]]:
    """Section and field that an override sets."""
    return next(
        (section, declared)
        for section, options in _sections(hparams)
        for declared in fields(options)
        if word.section == section and word.option in names(declared)
    )


def _value(hparams: Any, section: str, declared: Field[Any]) -> Any:
    return getattr(getattr(hparams, section), declared.name)


def _edited(document: Document, words: Sequence[Setting], after: Any, before: Any | None) -> Document:
    """The document with the words inserted; text whose value does not change is left as written."""
    for word in words:
        section, declared = _declaration(word, after)
        if (section, declared.name) == ("run", "root"):
            continue
        value = _value(after, section, declared)
        if before is None or _value(before, section, declared) != value:
            document = _with_option(document, section, declared, _written(word, declared, value))
    return document


def _with_absolute_paths(document: Document, hparams: Any, log_root: Path) -> Document:
    """The document of a run outside the twin's folder, where relative paths start.

    Absolute paths let anyone who opens the run find its data. Paths of other runs next to it stay relative.
    """
    for section, options in _sections(hparams):
        for declared in fields(options):
            value = getattr(options, declared.name)
            inside_run_folder = isinstance(value, str) and Path(value).is_relative_to(log_root)
            if declared.metadata["path"] and declared.name != "root" and value and not inside_run_folder:
                document = _with_option(document, section, declared, _path_text(value))
    return document


def _written(word: Setting, declared: Field[Any], value: Any) -> str:
    """Text that reads back as the value: as the user wrote it, if a file can hold that."""
    if word.option == "name":
        return word.text
    if declared.metadata["path"]:
        return _path_text(value)
    return repr(value) if isinstance(value, str) or "\n" in word.text else word.text


def _without_option(document: Document, section: str, declared: Field[Any]) -> Document:
    sections = tuple(
        replace(s, entries=tuple(e for e in s.entries if fold(e.option) not in names(declared)))
        if fold(s.name) == section
        else s
        for s in document.sections
    )
    return replace(document, sections=sections)


def _path_text(value: str | tuple[str, ...]) -> str:
    return repr(value if isinstance(value, str) else list(value))


def _with_option(document: Document, section: str, declared: Field[Any], text: str) -> Document:
    matches = [s for s in document.sections if fold(s.name) == section]
    if not matches:
        return replace(
            document, sections=(*document.sections, Section(section, (Entry(declared.name, text),)))
        )
    old = matches[0]
    existing = [entry for entry in old.entries if fold(entry.option) in names(declared)]
    entry = replace(existing[0], text=text) if existing else Entry(declared.name, text)
    entries = tuple(entry if other in existing else other for other in old.entries) + (
        () if existing else (entry,)
    )
    new = replace(old, entries=entries)
    return replace(document, sections=tuple(new if s is old else s for s in document.sections))
