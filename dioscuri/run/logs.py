"""What a run tells while it trains: JSON lines, TensorBoard and, on request, Weights & Biases."""

import json
import math
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.files import replacing, write_json
from dioscuri.outputs.pictures import save_png
from dioscuri.outputs.settings import SETTINGS

Scalars = Mapping[str, float]
SECONDS = "Time/training_seconds"
"""Tag of the seconds that a run has trained for."""


class Sink(Protocol):
    """Where scalars, histograms and pictures of a split (`train` or `val`) go. `step` counts the batches
    trained on."""

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        """Numbers under their tags."""

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        """Distributions of arrays of any shape."""

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        """Pictures uint8 (H, W, 1 or 3)."""

    def close(self) -> None:
        """Write out what is held back."""


class JsonLines:
    """One line a logged step and split: `{"step": 100, "split": "train", "<tag>": value, ...}`; null is not a
    number."""

    def __init__(self, path: Path, *, step: int) -> None:
        """Go on after `step`: later lines, of a run that went further than its newest checkpoint, are cut."""
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
    """Leave out lines of later steps, and a line that was not finished."""
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    remaining = [line for line in lines if _step_of(line) <= step]
    if len(remaining) < len(lines):
        with replacing(path) as temporary:
            temporary.write_text("".join(remaining))


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"] if line.endswith("\n") else math.inf
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorBoard:
    """Event files under `<run directory>/train` and `<run directory>/val`."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """Go on after `step`; TensorBoard hides events of later steps that an earlier process wrote."""
        from tensorboardX import SummaryWriter  # noqa: PLC0415 - slow: it imports torch where that is installed

        self._writers = {
            split: SummaryWriter(str(folder / split), purge_step=step + 1) for split in ("train", "val")
        }

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        for tag, value in values.items():
            # tensorboardX warns of each number that is not finite; the JSON lines tell of them.
            if math.isfinite(value):
                self._writers[split].add_scalar(tag, value, step)

    def histograms(self, split: str, step: int, values: Mapping[str, Array]) -> None:
        for tag, array in values.items():
            finite = array[np.isfinite(array)]
            if finite.size:
                self._writers[split].add_histogram(tag, finite, step)

    def images(self, split: str, step: int, pictures: Mapping[str, Array]) -> None:
        for tag, picture in pictures.items():
            self._writers[split].add_image(tag, picture, step, dataformats="HWC")

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class Sheets:
    """Pictures as `validation-images/<step>-<split>-<name>.png`; `settings.json` there says of what."""

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
        """Nothing is held back."""


def check_wandb() -> None:
    """A `UserError` when the package of Weights & Biases is not there."""
    if find_spec("wandb") is None:
        raise UserError(
            "[run] wandb is True, but wandb is not installed: run `pip install wandb`, or set run.wandb=False"
        )


class WandB:
    """Weights & Biases; its tags are `<split>/<tag>`."""

    def __init__(self, project: str, name: str, options: dict[str, Any], folder: Path) -> None:
        """Go on with the run of that name."""
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
    """Everything a process reports goes to all of its sinks; the processes beside the first have none."""

    def __init__(self, sinks: list[Sink]) -> None:
        self._sinks = sinks

    def scalars(self, split: str, step: int, values: Scalars) -> None:
        """Numbers under their tags."""
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
        """Write out what is held back."""
        for sink in self._sinks:
            sink.close()
