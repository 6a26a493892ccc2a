"""What the tabs of the demo's page are made of: inputs, buttons, pictures, and the events between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from dioscuri.demo import actions, pictures
from dioscuri.demo.controls import Control, controls, given
from dioscuri.demo.exhibit import Exhibit
from dioscuri.demo.jobs import Jobs
from dioscuri.outputs.pictures import enlarge


@dataclass(frozen=True)
class Asked:
    """Components of what is asked of `generate`: number, seed, classes, prompt, and options."""

    n: Any
    seed: Any
    classes: Any
    prompt: Any
    negative: Any
    options: tuple[Control, ...]
    values: tuple[Any, ...]

    @property
    def components(self) -> list[Any]:
        """All of them, in the order in which `Panel._read` takes their values."""
        return [self.n, self.seed, self.classes, self.prompt, self.negative, *self.values]


class Panel:
    """Components for the tabs of one model."""

    def __init__(self, exhibit: Exhibit, jobs: Jobs, folder: Path) -> None:
        self.exhibit, self.jobs, self.folder = exhibit, jobs, folder

    def _asked(self, n: int, most: int = actions.MOST_PICTURES, *, classes_in_turn: bool = True) -> Asked:
        classes, prompts = self.exhibit.num_classes, self.exhibit.reads_text
        options = controls(self.exhibit)
        with gr.Row():
            number = gr.Slider(1, most, n, step=1, label="pictures")
            seed = gr.Number(0, label="seed", precision=0)
        typed = gr.Textbox(
            label=f"classes, 0 to {classes - 1}",
            placeholder="3, 7 (empty: all in turn)" if classes_in_turn else "3",
            visible=bool(classes),
        )
        prompt = gr.Textbox(label="prompt", visible=prompts)
        avoids = prompts and self.exhibit.encoder is None
        negative = gr.Textbox(label="negative prompt", visible=avoids)
        with gr.Accordion("Options"), gr.Row():
            values = tuple(_control(option) for option in options)
        return Asked(number, seed, typed, prompt, negative, options, values)

    def _classes(self, label: str, example: str = "3") -> Any:
        """A box for the classes of given pictures, shown for a model whose latents they condition."""
        largest = self.exhibit.num_classes - 1
        return gr.Textbox(
            label=f"{label}, 0 to {largest}",
            placeholder=f"{example} (empty: none)",
            visible=self.exhibit.asks_class,
        )

    def _read(self, asked: Asked, values: Sequence[Any]) -> tuple[int, int, dict[str, Any], dict[str, Any]]:
        """Number, seed, conditions and options from the values of `asked`."""
        n, seed, classes, prompt, negative, *options = values
        number = actions.count(n)
        about = actions.conditions(self.exhibit, number, classes or "", prompt or "", negative or "")
        return number, actions.seed_of(seed), about, given(asked.options, options)

    def _picker(self, label: str = "picture", seed: int = 0, *, shows: bool = True) -> Any:
        """An upload or, of a model that generates, a sample; returns the chosen picture, a state."""
        picture = gr.State()
        shown = gr.Image(
            label=label,
            alt_text=label,
            interactive=False,
            format="png",
            height=180,
            buttons=[],
            visible=shows,
        )
        with gr.Row():
            upload = gr.UploadButton(f"Upload {label}", file_types=["image"], type="binary", size="sm")
            draws = "generate" in self.exhibit.tabs
            sample = gr.Button("Sample of the model", size="sm", visible=draws)
            number = gr.Number(seed, label="seed", precision=0, visible=draws, scale=0, min_width=80)

        def uploaded(content: Any) -> Any:
            return _both(pictures.read_upload(content, self.exhibit.picture_shape))

        def sampled(seed: float) -> Any:
            return _both(actions.sample(self.exhibit, actions.seed_of(seed)))

        self._listen(upload.upload, uploaded, [upload], [picture, shown])
        self._listen(sample.click, sampled, [number], [picture, shown])
        return picture

    @staticmethod
    def _sheet(label: str, *, visible: bool = True, titled: bool = False) -> Any:
        """A picture to show; a title covers its corner."""
        return gr.Image(
            label=label,
            alt_text=label,
            show_label=titled,
            interactive=False,
            format="png",
            buttons=["download", "fullscreen"],
            visible=visible,
        )

    @staticmethod
    def _buttons(label: str) -> tuple[Any, Any]:
        with gr.Row():
            return gr.Button(label, variant="primary"), gr.Button("Cancel", variant="stop")

    def _connect(
        self, buttons: tuple[Any, Any], work: Callable[..., Any], inputs: list[Any], outputs: list[Any],
        sliders: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        """Do the work when the first button is pressed or a slider is let go; the second one ends it."""
        start, cancel = buttons
        events = [self._listen(start.click, work, inputs, outputs)]
        events += [self._listen(slider.release, work, inputs, outputs, "always_last") for slider in sliders]
        cancel.click(self.jobs.cancel, cancels=events, queue=False, api_visibility="private")

    def _listen(
        self, event: Any, work: Callable[..., Any], inputs: list[Any], outputs: list[Any], mode: str = "once"
    ) -> Any:
        """One event: it waits until no other call runs, and its errors become messages. While its call runs,
        the page ignores the event in mode `once`, and keeps the last one for later in mode `always_last`."""
        runs = self.jobs.job(self.exhibit, work)
        return event(
            runs, inputs, outputs, trigger_mode=mode, concurrency_limit=1, concurrency_id="model",
            api_visibility="undocumented",
        )  # fmt: skip


def _both(picture: Any) -> tuple[Any, Any]:
    """A picture as state, and as it is shown."""
    whole = enlarge(picture)
    return picture, whole if whole.shape[2] == 3 else whole.repeat(3, 2)


def _control(option: Control) -> Any:
    label = option.name.replace("_", " ")
    if option.choices:
        return gr.Dropdown(list(option.choices), value=option.default, label=label, min_width=180)
    return gr.Number(
        option.default,
        label=label,
        precision=0 if option.whole else None,
        minimum=option.low,
        maximum=option.high,
        min_width=120,
    )
