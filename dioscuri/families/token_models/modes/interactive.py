"""A menu in the terminal that samples with typed settings, like sundae-vqgan's `sample-interactive.py`."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from math import isfinite, isqrt
from pathlib import Path
from typing import Any

import numpy as np

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.families.token_models.drawing import decoded
from dioscuri.families.token_models.films import frames_of
from dioscuri.outputs.pictures import in_rows, save_grid
from dioscuri.outputs.settings import output_folder

MENU = "1 draw, 2 draw again, 9 leave"
MOST_PICTURES, MOST_STEPS, MOST_KEPT = 1024, 2**16, 2**28
"""Limits: pictures, steps, and tokens in a history."""
TRUTHS = {"y": True, "yes": True, "true": True, "n": False, "no": False, "false": False}
WIDTH = 80
"""Characters of an answer that an error message repeats."""


@dataclass(frozen=True)
class Request:
    """Settings of the next sampling. None as end temperature or end proportion means the value of the first
    step; None as class means to cycle through all classes."""

    steps: int
    pictures: int
    temperature: float
    end_temperature: float | None
    sample_proportion: float
    end_sample_proportion: float | None
    min_steps: int
    history: bool
    class_index: int | None


class Menu:
    """Asks, samples and writes `interactive/<number>.png`, with a history also `<number>-steps.png`, until
    the user leaves or the input ends. `settings.json` records the settings of each under `progress.drawn`."""

    def __init__(self, context: Context, plan: Any, checkpoint: Checkpoint) -> None:
        if context.engine.process_count > 1:
            raise UserError(
                "[run] num_gpus: synthesis_mode 'interactive' needs a single process: set it to 1"
            )
        options = context.hparams.synthesis
        self.context, self.plan, self.classes = context, plan, context.hparams.model.num_classes
        self.output = output_folder(context, checkpoint, context.directory.images, "interactive")
        self.folder = self.output.path
        self.request = Request(
            options.steps,
            min(options.batch_size, MOST_PICTURES),
            options.temperature,
            options.end_temperature,
            options.sample_proportion,
            options.end_sample_proportion,
            min(options.min_steps, options.steps),
            False,
            None,
        )

    def run(self) -> None:
        """Run until the user leaves, the input ends, or Ctrl-C."""
        try:
            while True:
                self.context.say(MENU)
                answer = _answer("> ")
                if answer == "9":
                    break
                if answer == "1":
                    self.request = self._asked(self.request)
                if answer in ("1", "2"):
                    self._draw()
                elif answer:
                    self.context.say(f"'{_short(answer)}' is not on the menu")
        except (EOFError, KeyboardInterrupt):
            self.context.say()

    def _asked(self, request: Request) -> Request:
        """Ask for every setting; an empty answer keeps it, an invalid one is asked for again."""
        for field in fields(Request):
            if field.name == "class_index" and not self.classes:
                continue
            read = self._reader(field.name)
            while True:
                shown = getattr(request, field.name)
                words = {"class_index": "all", "end_temperature": "same", "end_sample_proportion": "same"}
                answer = _answer(f"{field.name} [{words[field.name] if shown is None else shown}]: ")
                if not answer:
                    break
                try:
                    request = replace(request, **{field.name: read(answer)})
                    break
                except ValueError as error:
                    self.context.say(f"'{_short(answer)}' is no {field.name}: give {error}")
        return replace(request, min_steps=min(request.min_steps, request.steps))

    def _reader(self, name: str) -> Callable[[str], Any]:
        """A function from an answer to a value; its ValueError says what is accepted."""
        return {
            "steps": lambda text: _whole(text, 1, MOST_STEPS),
            "pictures": lambda text: _whole(text, 1, MOST_PICTURES),
            "min_steps": lambda text: _whole(text, 0, MOST_STEPS),
            "temperature": lambda text: _number(text, None),
            "end_temperature": lambda text: None if text == "same" else _number(text, None),
            "sample_proportion": lambda text: _number(text, 1),
            "end_sample_proportion": lambda text: None if text == "same" else _number(text, 1),
            "history": _truth,
            "class_index": lambda text: None if text == "all" else _whole(text, 0, self.classes - 1),
        }[name]

    def _draw(self) -> None:
        request, began, number = self.request, time.monotonic(), _next_number(self.folder)
        if request.history and request.steps * request.pictures * self.plan.n_tokens > MOST_KEPT:
            self.context.say("so many steps of so many pictures are not kept: there is no history")
            request = replace(request, history=False)
        made = self._made(request, number)
        self.output.note(number, drawn={f"{number:04d}": asdict(request)})
        rows = in_rows(made["image"], isqrt(request.pictures))
        path = save_grid(self.folder / f"{number:04d}.png", rows)
        lines = [f"{request.pictures} pictures in {time.monotonic() - began:.1f} seconds: {path}"]
        if request.history:
            frames = frames_of(made, self.plan.token_shape, partial(decoded, self.context))
            strips = [np.stack(strip) for strip in zip(*frames, strict=True)]
            steps = save_grid(self.folder / f"{number:04d}-steps.png", strips)
            lines.append(f"one row per picture, one column per step: {steps}")
        self.context.say("\n".join(lines))

    def _made(self, request: Request, number: int) -> dict[str, Array]:
        options = self.context.hparams.synthesis
        names = ("temperature", "end_temperature", "sample_proportion", "end_sample_proportion")
        chosen = {name: getattr(request, name) for name in ("steps", "min_steps", *names)}
        sampling = replace(options, **chosen)
        size, batches = min(options.batch_size, request.pictures), []
        for first in range(0, request.pictures, size):
            index = np.arange(first, first + size, dtype=np.int32)
            asked = {"index": index}
            if self.classes:
                fixed = request.class_index
                asked = {"label": index % self.classes if fixed is None else np.full_like(index, fixed)}
            made = self.context.engine.run(
                "generate",
                asked,
                ema=options.load_ema_weights,
                step=number * MOST_PICTURES + first // size,
                every_step=request.history,
                sampling=sampling,
            )
            batches.append(made)
        return {
            name: np.concatenate([batch[name] for batch in batches])[: request.pictures]
            for name in batches[0]
        }


def _answer(question: str) -> str:
    """A line of the input without surrounding blanks; undecodable bytes become question marks."""
    try:
        return input(question).strip()
    except UnicodeDecodeError:
        return "?"


def _whole(text: str, low: int, high: int) -> int:
    if text.isdecimal() and len(text) < 10 and low <= int(text) <= high:
        return int(text)
    raise ValueError(f"a whole number from {low} to {high}")


def _number(text: str, high: float | None) -> float:
    expected = "a number of at least 0" if high is None else f"a number from 0 to {high:g}"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(expected) from None
    if not isfinite(value) or value < 0 or (high is not None and value > high):
        raise ValueError(expected)
    return value


def _truth(text: str) -> bool:
    if text.lower() not in TRUTHS:
        raise ValueError("yes or no")
    return TRUTHS[text.lower()]


def _short(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text[:WIDTH])


def _next_number(folder: Path) -> int:
    """One more than the largest number of a picture in the folder."""
    names = [path.stem.partition("-")[0] for path in folder.glob("*.png")]
    return 1 + max((int(name) for name in names if name.isdecimal()), default=0)
