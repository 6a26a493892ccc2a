"""Pictures of the demo's page for docs/demo.md, from a running demo of two models:

dioscuri demo torch_impl/logs-maskgit_digits torch_impl/logs-digits
python tools/demo_pictures.py http://127.0.0.1:7860 docs/demo
"""

import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.browser import Visitor, open_page


def generate(visitor: Visitor) -> None:
    """Two digits in turn, and the film of their steps."""
    visitor.type_in("classes, 0 to 9", "0, 1, 2, 3")
    visitor.press("Generate")
    visitor.picture("pictures")
    visitor.picture("steps")


def inpaint(visitor: Visitor) -> None:
    """A stroke of a digit."""
    visitor.type_in("seed", 3)
    visitor.press("Sample of the model")
    visitor.draw()
    visitor.type_in("classes, 0 to 9", "3")
    visitor.press("Fill")
    visitor.picture("filled")


def outpaint(visitor: Visitor) -> None:
    """A digit in the middle of more."""
    visitor.press("Sample of the model")
    visitor.picture("picture")
    visitor.type_in("classes, 0 to 9", "0")
    visitor.press("Extend")
    visitor.picture("extended")


def twins(visitor: Visitor) -> None:
    """Both twins from the same noise."""
    visitor.press("Compare")
    visitor.text("difference", "differ")


def reconstruct(visitor: Visitor) -> None:
    """A sample of the model, reconstructed."""
    visitor.press("Sample of the model")
    visitor.picture("picture")
    visitor.press("Reconstruct")
    visitor.picture("reconstruction")


def interpolate(visitor: Visitor) -> None:
    """The way between two samples of the model."""
    for n, label in enumerate(("first picture", "second picture")):
        visitor.page.get_by_role("button", name="Sample of the model").nth(n).click()
        visitor.picture(label)
    visitor.press("Interpolate")
    visitor.picture("interpolation")


def latents(visitor: Visitor) -> None:
    """Two latents of a group on 2x2 positions, shifted."""
    visitor.press("Sample of the model")
    visitor.picture("picture")
    visitor.page.get_by_label("latents", exact=True).locator("visible=true").click()
    visitor.page.get_by_role("option", name="level 1 (2x2), group 1").click()
    for n, shift in enumerate((3, -3)):
        visitor.page.get_by_label(f"number input for latent {n}").fill(str(shift))
    visitor.press("Show")
    visitor.picture("shifted")


def keep(visitor: Visitor) -> None:
    """Digits that share the coarsest latents."""
    visitor.press("Sample of the model")
    visitor.picture("picture")
    visitor.press("Show")
    visitor.picture("pictures")


TABS: dict[Callable[[Visitor], None], tuple[int, str]] = {
    generate: (0, "Generate"),
    inpaint: (0, "Inpaint"),
    outpaint: (0, "Outpaint"),
    twins: (0, "Both twins"),
    reconstruct: (1, "Reconstruct"),
    interpolate: (1, "Interpolate"),
    latents: (1, "Latents"),
    keep: (1, "Keep first k"),
}
"""What is done, with which model, and in which tab."""


def main(url: str, folder: str) -> None:
    """Write a picture of every tab."""
    for work, (model, tab) in TABS.items():
        with open_page(url) as visitor:
            visitor.page.get_by_role("tab").nth(model).click()
            visitor.open_tab(tab)
            work(visitor)
            visitor.page.mouse.move(0, 0)
            visitor.page.wait_for_timeout(1500)
            visitor.page.screenshot(path=Path(folder) / f"{work.__name__}.png", full_page=True)
            print(work.__name__, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
