"""Options of what token models draw, whatever the sampler."""

from dataclasses import dataclass

from common.hparams.schema import option


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How many pictures of what, and which part of pictures is filled."""

    synthesis_mode: str = option(
        choices=("generation", "inpainting", "animation"),
        doc="generation: pictures; inpainting: fill a part of pictures; animation: every step of sampling",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    n_generation_batches: int = option(1, low=1, doc="generation: batches")
    classes: tuple[int, ...] = option(
        (), low=0, doc="classes to draw, in turn; empty: all classes of the model, in turn"
    )
    n_samples: int = option(16, low=1, doc="inpainting, animation: pictures")
    split: str = option(
        "",
        choices=("", "train", "validation", "test"),
        doc="inpainting: pictures to read, and else the captions; empty is test",
    )
    inpaint_box: tuple[int, int, int, int] = option(
        (0, 0, 0, 0),
        low=0,
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
