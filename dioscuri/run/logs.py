"""Logs of a training run: JSON lines, sheets of pictures and, on request, Weights & Biases."""

import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.files import plain_bytes, replacing, write_json
from dioscuri.outputs.pictures import save_png
from dioscuri.outputs.settings import SETTINGS

Scalars = Mapping[str, float]
SECONDS = "Time/training_seconds"
CPU_SECONDS = "Time/training_cpu_seconds"
"""Tags of a run's training time in seconds: on the wall, and of the processor."""


class Sink(Protocol):
    """Destination of scalars, histograms and pictures of a split (`train` or `val`). `step` counts training
    batches."""

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        """Numbers by tag."""

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """Distributions of arrays of any shape."""

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        """Pictures uint8 (H, W, 1 or 3)."""

    def close(self) -> None:
        """Write everything that is buffered."""


class JsonLines:
    """One line per logged step and split: `{"step": 100, "split": "train", "<tag>": value, ...}`; null stands
    for numbers that are not finite."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Continue after `step`: later lines, logged after the newest checkpoint, are removed."""
        try:
            cut_after(path, step)
            self._file = path.open("a", buffering=1)
        except OSError as error:
            raise UserError(f"log {path} cannot be written: {error.strerror}: move it away") from error

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        numbers = {tag: value if math.isfinite(value) else None for tag, value in values.items()}
        self._file.write(json.dumps({"step": step, "split": split, **numbers}, allow_nan=False) + "\n")

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """JSON lines hold scalars only."""

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        """JSON lines hold scalars only."""

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def cut_after(path: Path, step: int) -> None:
    """Remove the lines of later steps, and an incomplete line."""
    if not path.exists():
        return
    lines = plain_bytes(path).decode(errors="replace").splitlines(keepends=True)
    remaining = [line for line in lines if _step_of(line) <= step]
    if len(remaining) < len(lines):
        with replacing(path) as temporary:
            temporary.write_text("".join(remaining))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class Sheets:
    """Pictures as `validation-images/<step>-<split>-<name>.png`, with `settings.json` next to them."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder = folder
        write_json(folder / SETTINGS, settings)

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        """Sheets hold pictures only."""

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """Sheets hold pictures only."""

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        for tag, picture in pictures.items():
            name = tag.rpartition("/")[2].removesuffix(f"_{step}").lower()
            save_png(self._folder / f"{step:08d}-{split}-{name}.png", picture)

    def close(self) -> None:
        """Nothing is buffered."""


def check_wandb() -> None:
    """Raise a `UserError` if the package `wandb` is not installed."""
    if find_spec("wandb") is None:
        raise UserError(
            "[run] wandb is True, but wandb is not installed: run `pip install wandb`, or set run.wandb=False"
        )


class WandB:
    """Weights & Biases; its tags are `<split>/<tag>`."""

    def __init__(self, project: str, name: str, options: dict[str, Any], folder: Path) -> None:
        """Continue the run of that name."""
        import wandb  # noqa: PLC0415 - an optional package

        self._wandb = wandb
        self._run = wandb.init(
            project=project, name=name, id=name, config=options, dir=str(folder), resume="allow"
        )

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        self._run.log({f"{split}/{tag}": value for tag, value in values.items()}, step=step)

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        histograms = {
            f"{split}/{tag}": self._wandb.Histogram(array.ravel().tolist()) for tag, array in values.items()
        }
        self._run.log(histograms, step=step)

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        self._run.log({f"{split}/{tag}": self._wandb.Image(p) for tag, p in pictures.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


class Log:
    """Sends everything that a process reports to all of its sinks; only the first process has any."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        """Numbers by tag."""
        for sink in self._sinks:
            sink.scalars(split, step, values)

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """Distributions of arrays of any shape."""
        for sink in self._sinks:
            sink.histograms(split, step, values)

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        """Pictures uint8 (H, W, 1 or 3)."""
        for sink in self._sinks:
            sink.images(split, step, pictures)

    def close(self) -> None:
        """Write everything that is buffered."""
        for sink in self._sinks:
            sink.close()
