"""Options of token models' output for every sampler."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option

MODES = ("generation", "inpainting", "animation", "reconstruction", "encoding")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Number and conditions of pictures, and the region to fill."""

    synthesis_mode: str = option(
        choices=MODES,
        doc="generation: pictures; inpainting: fill a region of pictures; animation: every sampling step; "
        "reconstruction: pictures encoded and decoded by the tokenizer; encoding: pictures to shards of "
        "tokens",
    )
    load_ema_weights: bool = option(doc="use the averaged weights")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
    n_generation_batches: int = option(1, low=1, high=10**9, doc="generation: batches")
    n_pictures: int = option(
        0,
        low=0,
        high=10**9,
        needs=("synthesis_mode", ("generation",)),
        doc="generation: exactly that many pictures; 0: n_generation_batches whole batches",
    )
    sheet_only: bool = option(
        False,
        needs=("synthesis_mode", ("generation",)),
        doc="generation: one contact sheet instead of one file per picture",
    )
    film: str = option(
        "none",
        choices=("none", "gif", "png", "webp"),
        needs=("synthesis_mode", ("generation",)),
        doc="generation: also write film-<i>, an animated picture of each batch's steps, and their table "
        "steps-<i>.csv, where i is the number of the first picture; with sampler halton the pictures differ "
        "from those without a film",
    )
    classes: tuple[int, ...] = option(
        (), low=0, high=2**20, doc="classes to sample, in turn; empty: all classes of the model, in turn"
    )
    n_samples: int = option(
        16,
        low=1,
        high=10**9,
        needs=("synthesis_mode", ("inpainting", "animation", "reconstruction")),
        doc="inpainting, animation, reconstruction: number of pictures",
    )
    split: str = option(
        "",
        choices=("", "train", "validation", "test"),
        needs_any=(
            ("synthesis_mode", ("inpainting", "reconstruction", "encoding")),
            ("data.text_length", ()),
        ),
        doc="split of the pictures or captions; empty: test, for encoding train",
    )
    inpaint_box: tuple[int, int, int, int] = option(
        (0, 0, 0, 0),
        low=0,
        high=2**14,
        needs=("synthesis_mode", ("inpainting",)),
        doc="inpainting: top, left, height, width of the rectangle in tokens (of a sequence 0, first, 1, "
        "number); all 0: the middle half",
    )
    mask_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("inpainting",)),
        doc="inpainting: PNG that is white where pictures are filled, instead of a rectangle",
    )
    outpaint: bool = option(
        False,
        needs=("synthesis_mode", ("inpainting",)),
        doc="inpainting: fill the outside of the rectangle, or where the mask is not white",
    )
    blend_radius: float = option(
        0.0,
        low=0,
        high=2**10,
        needs=("synthesis_mode", ("inpainting",)),
        doc="inpainting: pixels over which the filled region is blended into the unchanged picture; 0: no "
        "blending, the whole picture is decoded from tokens",
    )
    image_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("inpainting",)),
        doc="inpainting: an image file instead of pictures of a split; needs the tokenizer",
    )
    tokens_path: str = option(
        "",
        path=True,
        needs=("synthesis_mode", ("encoding",)),
        doc="encoding: folder to write; empty: the run's latents/tokens_<split>",
    )
