"""Locations of the twins' programs, shipped examples, runs and caches.

In a clone, a twin's runs are in its own folder, and relative paths of a `.cfg` start there. An installed
package writes nothing next to its own files: it uses the working directory instead of the twins' folders.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
PROGRAMS = PACKAGE.parent
"""Holds `torch_impl/` and `jax_impl/`, in a clone and in an installed package."""

RUNS_VARIABLE = "DIOSCURI_RUNS"


@dataclass(frozen=True)
class Places:
    """The folder of the twins' programs, and the working folder of an installed package, None in a clone."""

    programs: Path = PROGRAMS
    work: Path | None = None

    def home(self, twin: str) -> Path:
        """The folder of a twin's runs unless another is named; relative paths of a `.cfg` start there."""
        return self.work or self.programs / f"{twin}_impl"

    def results(self) -> Path:
        """The folder of a sweep's results, next to those of its runs."""
        return Path(os.environ.get(RUNS_VARIABLE) or self.work or self.programs).absolute()


def here() -> Places:
    """The locations of this clone, or of an installed package in the working directory."""
    return Places() if in_clone() else Places(work=Path.cwd())


def in_clone() -> bool:
    """Whether this package is in a clone of the repository."""
    return (PROGRAMS / "build" / "setup_env.sh").is_file() and (PROGRAMS / "egs").is_dir()


def runs_folder(root: str, home: Path) -> Path:
    """The folder of the runs: `run.root` or, where that is empty, DIOSCURI_RUNS, or the twin's home."""
    return Path(root or os.environ.get(RUNS_VARIABLE) or home).expanduser().absolute()


def examples() -> Path:
    """The folder of the shipped configurations, `egs`."""
    return PROGRAMS / "egs" if in_clone() else PACKAGE / "egs"


def configuration(path: Path) -> tuple[Path, str]:
    """The user's configuration, or the shipped example of that name, and a line to print about it."""
    shipped = None if path.exists() or path.is_absolute() else _example(path)
    if shipped is None:
        return path, ""
    return shipped, f"configuration {path}: the one shipped with Dioscuri, {shipped}"


def _example(path: Path) -> Path | None:
    parts = path.parts[1:] if path.parts[:1] == ("egs",) else path.parts
    file = examples().joinpath(*parts)
    return file if parts and ".." not in parts and file.is_file() else None


def shipped_models() -> Path:
    """The folder of the trained models that come with Dioscuri, `pretrained`."""
    return (PROGRAMS if in_clone() else PACKAGE) / "pretrained"


def cache_folder() -> Path:
    """The folder of downloads and compiled programs: DIOSCURI_CACHE, or `dioscuri` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("DIOSCURI_CACHE") or Path(cache, "dioscuri")).expanduser()
