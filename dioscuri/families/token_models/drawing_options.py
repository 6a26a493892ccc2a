"""Options of what token models draw, whatever the sampler."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option

MODES = ("generation", "inpainting", "animation", "reconstruction", "encoding")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How many pictures of what, and which part of pictures is filled."""

    synthesis_mode: str = option(
        choices=MODES,
        doc="generation: pictures; inpainting: fill a part of pictures; animation: every step of sampling; "
        "reconstruction: pictures through the tokenizer and back; encoding: pictures to shards of tokens",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    n_generation_batches: int = option(1, low=1, high=10**9, doc="generation: batches")
    n_pictures: int = option(
        0,
        low=0,
        high=10**9,
        doc="generation: exactly that many pictures; 0: n_generation_batches whole batches",
    )
    sheet_only: bool = option(False, doc="generation: one contact sheet instead of a file a picture")
    classes: tuple[int, ...] = option(
        (), low=0, high=2**20, doc="classes to draw, in turn; empty: all classes of the model, in turn"
    )
    n_samples: int = option(16, low=1, high=10**9, doc="inpainting, animation, reconstruction: pictures")
    split: str = option(
        "",
        choices=("", "train", "validation", "test"),
        doc="pictures to read, and else the captions; empty is test, for encoding train",
    )
    inpaint_box: tuple[int, int, int, int] = option(
        (0, 0, 0, 0),
        low=0,
        high=2**14,
        doc="inpainting: top, left, height, width of the rectangle in tokens; all 0: the middle half",
    )
    mask_path: str = option(
        "", path=True, doc="inpainting: PNG that is white where pictures are filled, instead of a rectangle"
    )
    outpaint: bool = option(
        False, doc="inpainting: fill what lies outside of the rectangle, or where the mask is not white"
    )
    blend_radius: float = option(
        0.0,
        low=0,
        high=2**10,
        doc="inpainting: what is not filled stays as it was, with an edge blurred by so many pixels; 0: all "
        "of it is what the tokens decode to",
    )
    image_path: str = option(
        "", path=True, doc="inpainting: an image file instead of pictures of a split; needs the tokenizer"
    )
    tokens_path: str = option(
        "", path=True, doc="encoding: folder to write; empty is the run's own, latents/tokens_<split>"
    )
