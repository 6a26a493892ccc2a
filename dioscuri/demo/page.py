"""The demo's page in Gradio: a tab for each thing that a model can do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from dioscuri.demo import actions, pictures
from dioscuri.demo.exhibit import Exhibit
from dioscuri.demo.jobs import Jobs
from dioscuri.demo.panel import Panel
from dioscuri.twins import TITLES

TITLE = "Dioscuri"


def build(exhibits: Sequence[Exhibit], folder: Path, jobs: Jobs) -> Any:
    """The page of these models; films are written to `folder`."""
    page = gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600))
    with page:
        gr.Markdown(f"# {TITLE}")
        if len(exhibits) == 1:
            Tabs(exhibits[0], jobs, folder).build()
        else:
            with gr.Tabs():
                for exhibit in exhibits:
                    with gr.Tab(exhibit.name):
                        Tabs(exhibit, jobs, folder).build()
    return page


def theme() -> Any:
    """Gradio's looks without fonts of another server."""
    return gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])


class Tabs(Panel):
    """The tabs of one model."""

    def build(self) -> None:
        """Add the tabs to the page that is being built."""
        model = self.exhibit.model
        shape = "x".join(map(str, self.exhibit.picture_shape))
        without = self.exhibit.reads_text and not self.exhibit.reads_prompts
        lacks = "; start the demo with `--text-encoder` to generate from prompts" if without else ""
        gr.Markdown(
            f"**{self.exhibit.name}**: {model.family}, {model.num_parameters:,} parameters, {shape}, "
            f"in {TITLES[self.exhibit.twin]}{lacks}"
        )
        titles = {"keep": "Keep first k", "latents": "Latents", "twins": "Both twins"}
        with gr.Tabs():
            for tab in self.exhibit.tabs:
                with gr.Tab(titles.get(tab, tab.capitalize())):
                    getattr(self, f"_{tab}")()

    def _generate(self) -> None:
        text = self.exhibit.writes_text
        with gr.Row():
            with gr.Column():
                asked = self._asked(16)
                has_film = not text and "steps" in (control.name for control in asked.options)
                film = gr.Checkbox(has_film, label="film of the steps", visible=has_film)
                buttons = self._buttons("Generate")
            with gr.Column():
                sheet = self._sheet("pictures", visible=not text)
                moving = gr.Image(
                    label="steps",
                    alt_text="steps",
                    type="filepath",
                    interactive=False,
                    visible=has_film,
                    buttons=["download"],
                )
                texts = gr.Textbox(label="texts", lines=12, visible=text)

        def generate(film: bool, *values: Any) -> tuple[Any, ...]:
            made = actions.generate(self.exhibit, *self._read(asked, values), film=film)
            saved = None if made.steps is None else str(pictures.save_steps(self.folder, made.steps))
            return made.sheet, saved, made.texts

        self._connect(buttons, generate, [film, *asked.components], [sheet, moving, texts])

    def _inpaint(self) -> None:
        with gr.Row():
            with gr.Column():
                picture = self._picker(shows=False)
                editor = gr.ImageEditor(
                    label="draw where it is to be filled",
                    type="numpy",
                    sources=(),
                    transforms=(),
                    layers=False,
                    brush=gr.Brush(default_size=40, colors=["#ff3333"], color_mode="fixed"),
                    canvas_size=(pictures.EDITOR_SIDE, pictures.EDITOR_SIDE),
                    format="png",
                )
                picture.change(
                    lambda drawn: None if drawn is None else pictures.canvas(drawn), picture, editor
                )
                asked = self._asked(4, classes_in_turn=False)
                buttons = self._buttons("Fill")
            sheet = self._sheet("filled")

        def fill(picture: Any, drawn: Any, *values: Any) -> Any:
            mask = pictures.read_mask(drawn, self.exhibit.picture_shape)
            return actions.inpaint(self.exhibit, picture, mask, *self._read(asked, values))

        self._connect(buttons, fill, [picture, editor, *asked.components], [sheet])

    def _outpaint(self) -> None:
        with gr.Row():
            with gr.Column():
                picture = self._picker()
                share = gr.Slider(0.1, 0.9, 0.5, label="side of the picture, as a share of the whole")
                across = gr.Slider(0, 1, 0.5, label="place from left to right")
                down = gr.Slider(0, 1, 0.5, label="place from top to bottom")
                asked = self._asked(4, classes_in_turn=False)
                buttons = self._buttons("Extend")
            sheet = self._sheet("extended")

        def extend(picture: Any, share: float, across: float, down: float, *values: Any) -> Any:
            grid = self.exhibit.model.grid  # type: ignore[attr-defined] # a token model
            placed, mask = actions.outpaint(picture, grid, share, across, down)
            return actions.inpaint(self.exhibit, placed, mask, *self._read(asked, values))

        self._connect(buttons, extend, [picture, share, across, down, *asked.components], [sheet])

    def _edit(self) -> None:
        with gr.Row():
            with gr.Column():
                picture = self._picker()
                strength = gr.Slider(0, 1, 0.5, label="strength: the share that is drawn again")
                asked = self._asked(4, classes_in_turn=False)
                buttons = self._buttons("Edit")
            sheet = self._sheet("edited")

        def edit(picture: Any, strength: float, *values: Any) -> Any:
            return actions.edit(self.exhibit, picture, strength, *self._read(asked, values))

        self._connect(buttons, edit, [picture, strength, *asked.components], [sheet])

    def _reconstruct(self) -> None:
        with gr.Row():
            with gr.Column():
                picture, classes = self._picker(), self._classes("class of the picture")
                buttons = self._buttons("Reconstruct")
            with gr.Column():
                sheet, says = self._sheet("reconstruction"), gr.Textbox(label="quality")

        def reconstruct(picture: Any, classes: str) -> Any:
            return actions.reconstruct(self.exhibit, picture, classes or "")

        self._connect(buttons, reconstruct, [picture, classes], [sheet, says])

    def _interpolate(self) -> None:
        with gr.Row():
            with gr.Column():
                first, second = self._picker("first picture", 0), self._picker("second picture", 1)
                n = gr.Slider(2, 16, 8, step=1, label="pictures")
                classes = self._classes("class of both pictures, or of each", "3, 7")
                buttons = self._buttons("Interpolate")
            sheet = self._sheet("interpolation")

        def interpolate(a: Any, b: Any, n: float, classes: str) -> Any:
            return actions.interpolate(self.exhibit, a, b, actions.count(n), classes or "")

        self._connect(buttons, interpolate, [first, second, n, classes], [sheet])

    def _latents(self) -> None:
        names = actions.groups(self.exhibit)
        sizes = [block.variates for block in self.exhibit.model.plan.groups]  # type: ignore[attr-defined] # of latents
        n = min(actions.N_SLIDERS, max(sizes))
        with gr.Row():
            with gr.Column():
                picture = self._picker()
                group = gr.Dropdown(names, value=names[0], type="index", label="latents")
                gr.Markdown("Shift of a latent at all positions, in standard deviations:")
                shifts = [gr.Slider(-4, 4, 0, label=f"latent {k}", visible=k < sizes[0]) for k in range(n)]
                later = gr.Checkbox(True, label="keep the latents of later groups (otherwise from the prior)")
                seed = gr.Number(0, label="seed", precision=0)
                classes, buttons = self._classes("class of the picture"), self._buttons("Show")
            sheet = self._sheet("shifted")

        def change(picture: Any, group: int, later: bool, number: float, typed: str, *by: float) -> Any:
            call: dict[str, Any] = {"keeps_later": later, "seed": actions.seed_of(number)}
            shift = by[: sizes[group]]
            return actions.change_latents(self.exhibit, picture, group, shift, classes=typed or "", **call)

        group.change(
            lambda group: [gr.Slider(value=0, visible=k < sizes[group]) for k in range(n)], group, shifts
        )
        self._connect(buttons, change, [picture, group, later, seed, classes, *shifts], [sheet], shifts)

    def _keep(self) -> None:
        most = len(actions.groups(self.exhibit))
        with gr.Row():
            with gr.Column():
                picture = self._picker()
                k = gr.Slider(1, most, max(1, most // 2), step=1, label="latent groups that stay")
                n, seed = gr.Number(8, label="pictures", precision=0), gr.Number(0, label="seed", precision=0)
                temperature = gr.Number(1.0, label="temperature of the others", minimum=0)
                classes = self._classes(
                    "classes of the new pictures in turn; the first is the picture's", "3, 7"
                )
                buttons = self._buttons("Show")
            with gr.Column():
                sheet, says = self._sheet("pictures"), gr.Textbox(label="latents")

        def keep(picture: Any, k: float, n: float, seed: float, warmth: float | None, classes: str) -> Any:
            numbers = actions.count(k, "latent groups", most), actions.count(n), actions.seed_of(seed)
            return actions.keep(self.exhibit, picture, *numbers, warmth, classes or "")

        self._connect(buttons, keep, [picture, k, n, seed, temperature, classes], [sheet, says], [k])

    def _classify(self) -> None:
        with gr.Row():
            with gr.Column():
                picture, buttons = self._picker(), self._buttons("Classify")
            label = gr.Label(label="classes", num_top_classes=5)
        self._connect(buttons, lambda chosen: actions.classify(self.exhibit, chosen), [picture], [label])

    def _twins(self) -> None:
        asked = self._asked(4, most=16)
        buttons = self._buttons("Compare")
        says = gr.Textbox(label="difference")
        with gr.Row():
            names = sorted(TITLES, key=lambda name: name != self.exhibit.twin)
            titles = (*(TITLES[name] for name in names), "difference, the largest in white")
            sheets = [self._sheet(title, titled=True) for title in titles]

        def compare(*values: Any) -> Any:
            return actions.compare(self.exhibit, *self._read(asked, values))

        self._connect(buttons, compare, asked.components, [*sheets, says])
