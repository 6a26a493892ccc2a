"""Draw the picture of the README: samples of the shipped models, a row for each; of VAEs, the means.

python tools/readme_picture.py docs/families.png NAME ...
"""

import argparse
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from dioscuri.environment import enter_environment

    enter_environment()

import numpy as np
from PIL import Image, ImageDraw

from dioscuri import torch as dio
from dioscuri.files import replacing

COLUMNS, SIDE, LABEL = 12, 64, 190
"""Pictures in a row, their size on the sheet, and the width of the label before them."""
TITLES = {
    "hierarchical_vae": "hierarchical VAE",
    "metroplex": "Metroplex",
    "maskgit": "masked tokens",
    "sundae": "SUNDAE",
}


def row(name: str) -> Image.Image:
    """Samples of a model, in colour if it has colours, behind its name."""
    model = dio.load(name)
    pictures = model.generate(COLUMNS, seed=1, **({"output": "mean"} if "bound" in model.does else {}))
    image = Image.new("RGB", (LABEL + COLUMNS * SIDE, SIDE), "white")
    draw = ImageDraw.Draw(image)
    draw.text((4, SIDE // 2 - 16), TITLES[model.family], "black", font_size=16)
    draw.text((4, SIDE // 2 + 4), name, "dimgray", font_size=13)
    for i, picture in enumerate(pictures):
        image.paste(_enlarged(picture), (LABEL + i * SIDE, 0))
    return image


def _enlarged(picture: Any) -> Image.Image:
    levels = np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture
    return Image.fromarray(levels).resize((SIDE - 2, SIDE - 2), Image.Resampling.NEAREST)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME")
    chosen = parser.parse_args()
    rows = [row(name) for name in chosen.models]
    sheet = Image.new("RGB", (rows[0].width, sum(image.height for image in rows)), "white")
    for i, image in enumerate(rows):
        sheet.paste(image, (0, i * SIDE))
    with replacing(chosen.out) as new:
        sheet.save(new, format="png")


if __name__ == "__main__":
    main()
