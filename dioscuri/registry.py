"""The families and their modules: a family is a folder of `dioscuri/families`."""

from importlib import import_module
from pathlib import Path
from types import ModuleType

_FOLDER = Path(__file__).with_name("families")


def family_names() -> list[str]:
    """Values of `run.family`: the folders with host logic."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/logic.py"))


def family_module(family: str, name: str) -> ModuleType:
    """A module of a family's folder, such as `options`."""
    return import_module(f"dioscuri.families.{family}.{name}")


def has_module(family: str, name: str) -> bool:
    """Whether a family's folder has that module."""
    return (_FOLDER / family / f"{name}.py").is_file()
