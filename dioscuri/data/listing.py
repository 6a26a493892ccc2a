"""Which files a path option names: one rule for every source.

A path is a file, a folder, or a pattern with *, ?, [...], ** (folders of any depth) and braces, such as
`{00000..00099}.tar` or `{train,more}/*.jpg`; several paths form one set. A path that exists is taken
literally, even with brackets and braces. Names that begin with a dot are skipped, and so is everything but
plain files (FIFOs, devices). A file counts once, however many links and patterns lead to it.
"""

import os
import re
import stat
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path

from dioscuri.errors import UserError

_MAGIC = re.compile(r"[*?[{]")
_RANGE = re.compile(r"(-?\d{1,18})\.\.(-?\d{1,18})")
_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST = 1_000_000  # names that braces may expand to
_NAMED = 3
_PARTS = attrgetter("parts")  # paths in the order of their own comparison, which is slower


@dataclass(frozen=True)
class Files:
    """Files in the order of their paths. `classes[i]` is the first folder on the way to file i below the
    literal start of the path option, '' if there is none."""

    paths: list[Path] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    class_names: tuple[str, ...] = ()
    """All such folders, even empty ones, in the order of their names."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)


@dataclass(frozen=True)
class Place:
    """An existing folder or file, and the components of a pattern below it; without any, it stands for
    itself."""

    root: Path
    pattern: tuple[str, ...] = ()


def find_files(
    text: str | Sequence[str],
    suffixes: Collection[str],
    option: str,
    *,
    noun: str = "files",
    class_folders: bool = False,
) -> Files:
    """The files that a path option names, at least one; a `UserError` begins with `option`.

    With `class_folders`, a folder without files of these suffixes stands for those in its subfolders, at any
    depth.
    """
    pairs: dict[Path, str] = {}
    names: set[str] = set()
    for place in places(text, option):
        paths = list(_files(place, suffixes, class_folders=class_folders))
        pairs |= {path: _class_name(path, place) for path in paths}
        if any(_class_name(path, place) for path in paths):
            names.update(_folders_below(place))
    distinct = once(pairs)
    if not distinct:
        raise UserError(f"{option} {_quoted(text)} holds no {noun} ({', '.join(sorted(suffixes))})")
    notes = (_links_note(text, len(pairs) - len(distinct)),) if len(distinct) < len(pairs) else ()
    return Files(distinct, [pairs[path] for path in distinct], tuple(sorted(names)), notes)


def folder_files(folder: Path, suffixes: Collection[str] | None = None) -> list[Path]:
    """Files directly in a folder, each once, in the order of their names."""
    names = _names(folder)
    return once(folder / name for name in names if suffixes is None or Path(name).suffix.lower() in suffixes)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, each once, in the order of their names."""
    return _each_once(path for path in map(folder.joinpath, _names(folder)) if path.is_dir())


def class_names(text: str | Sequence[str], option: str) -> tuple[str, ...]:
    """Names of the class folders below a path option, in order."""
    return tuple(sorted({name for place in places(text, option) for name in _folders_below(place)}))


def once(paths: Iterable[Path]) -> list[Path]:
    """Plain files in the order of their paths. Of a file's several names, one without symbolic links is
    chosen, else the first."""
    ordered = sorted(set(paths), key=_PARTS)
    base = os.path.commonpath([path.absolute().parent for path in ordered]) if ordered else ""
    parents = {Path(base): os.path.realpath(base)}
    chosen: dict[Hashable, tuple[bool, Path]] = {}
    for path in ordered:
        identity = _identity(path, base, parents)
        if identity is not None:
            key, is_link = identity
            if key not in chosen or (chosen[key][0] and not is_link):
                chosen[key] = is_link, path
    return sorted((path for _, path in chosen.values()), key=_PARTS)


def places(text: str | Sequence[str], option: str) -> list[Place]:
    """The places that a path option names; a `UserError` names those that do not exist."""
    texts = [text] if isinstance(text, str) else list(text)
    if not texts or not all(texts):
        raise UserError(f"{option} is empty: give a path")
    return [place for one in texts for place in _places(one, option)]


def _places(text: str, option: str) -> Iterator[Place]:
    parts = Path(text).parts
    n_literal = next((n for n in range(len(parts), 0, -1) if _exists(Path(*parts[:n]))), 0)
    root, rest = Path(*parts[:n_literal]), "/".join(parts[n_literal:])
    if rest and not _MAGIC.search(rest):
        raise UserError(
            f"{option} '{text}' does not exist; set it to your files, or prepare a known set with "
            "data_scripts/download_and_preprocess.sh"
        )
    if rest and not root.is_dir():
        raise UserError(f"{option} '{text}': '{root}' is not a folder")
    alternatives = _without_braces(rest, f"{option} '{text}'")
    literal = [root / one for one in alternatives if not _MAGIC.search(one)]
    if missing := [path for path in literal if not _exists(path)]:
        shown = ", ".join(map(str, missing[:_NAMED])) + (", ..." if len(missing) > _NAMED else "")
        raise UserError(
            f"{option} '{text}': {len(missing)} of {len(alternatives)} files do not exist: {shown}"
        )
    for one in alternatives:
        yield Place(root, Path(one).parts)


def _without_braces(text: str, where: str) -> list[str]:
    """Texts that braces expand to: `{a,b}` to each alternative, `{08..11}` to numbers padded to the wider
    end."""
    texts = [text]
    while match := next((m for m in _BRACES.finditer(texts[0]) if _n_alternatives(m[1])), None):
        if len(texts) * _n_alternatives(match[1]) > _MOST:
            raise UserError(f"{where} expands to more than {_MOST} names")
        names = _alternatives(match[1])
        texts = [one.replace(match[0], name, 1) for one in texts for name in names]
    return texts


def _n_alternatives(inside: str) -> int:
    """How many texts a pair of braces expands to; 0 if it is not a pattern."""
    if match := _RANGE.fullmatch(inside):
        return abs(int(match[2]) - int(match[1])) + 1
    return inside.count(",") + 1 if "," in inside else 0


def _alternatives(inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if not match:
        return inside.split(",")
    first, last = int(match[1]), int(match[2])
    padded = any(end.lstrip("-").startswith("0") and len(end) > 1 for end in match.groups())
    width = max(map(len, match.groups())) if padded else 0
    numbers = range(first, last + 1) if first <= last else range(first, last - 1, -1)
    return [f"{n:0{width}d}" for n in numbers]


def _files(place: Place, suffixes: Collection[str], *, class_folders: bool) -> Iterator[Path]:
    if place.pattern:
        paths = _matches(place.root, place.pattern)
        yield from (path for path in paths if path.suffix.lower() in suffixes and path.name[0] != ".")
    elif not place.root.is_dir():
        if not place.root.is_file():
            raise UserError(f"'{place.root}' is neither a regular file nor a folder")
        yield place.root
    elif (direct := folder_files(place.root, suffixes)) or not class_folders:
        yield from direct
    else:
        folders = _tree(place.root)
        yield from (path for folder in folders for path in folder_files(folder, suffixes))


def _matches(folder: Path, pattern: Sequence[str]) -> Iterator[Path]:
    """Paths below a folder that match the components of a pattern."""
    component, *rest = pattern
    if component == "**":
        while rest and rest[0] == "**":
            rest.pop(0)
        for inside in _tree(folder):
            yield from _matches(inside, rest or ["*"])
        return
    for path in _entries(folder, component):
        if not rest:
            yield path
        elif path.is_dir():
            yield from _matches(path, rest)


def _entries(folder: Path, pattern: str) -> list[Path]:
    """Entries of a folder that match a component of a pattern; if none does, brackets are literal."""
    literal = folder / pattern
    if (exists := _exists(literal)) or not _MAGIC.search(pattern):
        return [literal] if exists else []
    names = _names(folder, hidden=pattern.startswith("."))
    matching = [name for name in names if fnmatchcase(name, pattern)]
    escaped = pattern.replace("[", "[[]")
    return [folder / name for name in matching or [name for name in names if fnmatchcase(name, escaped)]]


def _folders_below(place: Place) -> list[str]:
    """Names of the folders at a place that may hold files."""
    if not place.root.is_dir() or (len(place.pattern) == 1 and place.pattern != ("**",)):
        return []
    component = place.pattern[0] if place.pattern else "**"
    paths = subfolders(place.root) if component == "**" else _entries(place.root, component)
    return [path.name for path in paths if path.is_dir()]


def _class_name(path: Path, place: Place) -> str:
    inside = path.relative_to(place.root).parts
    return inside[0] if len(inside) > 1 else ""


def _tree(folder: Path) -> Iterator[Path]:
    """A folder and all folders inside it, each real one once, without hidden ones. Links are followed last,
    so that a folder appears under its real name if it can."""
    seen: set[str] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        current = waiting.pop() if waiting else links.pop(0)
        real = os.path.realpath(current)
        if real in seen:
            continue
        seen.add(real)
        yield current
        for path in reversed([path for path in map(current.joinpath, _names(current)) if path.is_dir()]):
            (links if path.is_symlink() else waiting).append(path)


def _each_once(folders: Iterable[Path]) -> list[Path]:
    by_real: dict[str, Path] = {}
    for path in sorted(folders, key=lambda path: (path.is_symlink(), path.name)):
        by_real.setdefault(os.path.realpath(path), path)
    return sorted(by_real.values())


def _names(folder: Path, *, hidden: bool = False) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if hidden or not name.startswith("."))  # noqa: PTH208 - names
    except OSError as error:
        raise UserError(f"folder '{folder}' cannot be read: {error.strerror}") from error


def _identity(path: Path, base: str, parents: dict[Path, str]) -> tuple[Hashable, bool] | None:
    """A key that all names of a plain file share, and whether a link below `base` leads to it; None for
    anything but a plain file. `parents` caches the real paths of folders."""
    try:
        status = path.lstat()
        links = stat.S_ISLNK(status.st_mode)
        status = path.stat() if links else status
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    absolute = path.absolute()
    if absolute.parent not in parents:
        parents[absolute.parent] = os.path.realpath(absolute.parent)
    direct = f"{parents[absolute.parent]}/{path.name}"
    real = os.path.realpath(path) if links else direct
    is_link = real != parents[Path(base)] + str(absolute)[len(base) :]
    # The inode only for hard links: file systems that invent inode numbers have none.
    return ((status.st_dev, status.st_ino) if status.st_nlink > 1 else real), is_link


def _exists(path: Path) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - no error where a name is too long


def _quoted(text: str | Sequence[str]) -> str:
    return f"'{text}'" if isinstance(text, str) else ", ".join(f"'{one}'" for one in text)


def _links_note(text: str | Sequence[str], n: int) -> str:
    names = f"{n} further name{'' if n == 1 else 's'} of the same files"
    return f"{_quoted(text)}: left out {names}: a file counts once"
