"""Block strings and widths that Metroplex computes from `prog_mode`, `depth`, `width` and `start_res`."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.metroplex.options import Model


@dataclass(frozen=True)
class Strings:
    """Blocks of encoder and decoder, widths of resolutions, and the width after the input convolution."""

    encoder: str
    decoder: str
    custom_widths: str
    outer_width: int


HALVING = {
    (1024, 12, 32): Strings(
        "32x11,32d2,16x5,16d2,8x1,8d2,4x1,4d4,1x1", "1x1,4m1,8m4,8x1,16m8,16x1,32m16,32x5",
        "32:512,16:1024,8:2048,4:2048,1:2048", 512,
    ),
    (768, 24, 64): Strings(
        "64x23,64d2,32x11,32d2,16x5,16d2,8x1,8d2,4x1,4d4,1x2",
        "1x1,4m1,8m4,16m8,16x2,32m16,32x5,64m32,64x11",
        "64:192,32:384,16:768,8:1536,4:3072,1:3072", 192,
    ),
    (768, 12, 64): Strings(
        "64x11,64d2,32x5,32d2,16x1,16d2,8x1,8d2,4x1,4d4,1x2", "1x1,4m1,8m4,16m8,32m16,32x2,64m32,64x5",
        "64:192,32:384,16:768,8:1536,4:3072,1:3072", 192,
    ),
    (1024, 24, 128): Strings(
        "128x23,128d2,64x11,64d2,32x5,32d2,16x1,16d2,8x1,8d2,4x1,4d4,1x2",
        "1x1,4m1,8m4,16m8,32m16,32x2,64m32,64x5,128m64,128x11",
        "128:128,64:256,32:512,16:1024,8:2048,4:4096,1:4096", 128,
    ),
    (1024, 12, 128): Strings(
        "128x11,128d2,64x5,64d2,32x1,32d2,16x1,16d2,8x1,8d2,4x1,4d4,1x2",
        "1x1,4m1,8m4,16m8,32m16,64m32,64x2,128m64,128x5",
        "128:128,64:256,32:512,16:1024,8:2048,4:4096,1:4096", 128,
    ),
}  # fmt: skip
"""`prog_mode` 0, by width, depth and finest resolution: channels halve where the resolution doubles."""

EQUAL = {
    (24, 16): ("16x11,16d2,8x11,8d2,4x11,4d4,1x11", "1x5,4m1,4x5,8m4,8x5,16m8,16x5"),
    (24, 32): ("32x9,32d2,16x9,16d2,8x9,8d2,4x9,4d4,1x9", "1x4,4m1,4x4,8m4,8x4,16m8,16x4,32m16,32x4"),
    (12, 16): ("16x5,16d2,8x5,8d2,4x5,4d4,1x5", "1x2,4m1,4x2,8m4,8x2,16m8,16x2"),
    (12, 32): ("32x5,32d2,16x5,16d2,8x3,8d2,4x3,4d4,1x3", "1x1,4m1,4x1,8m4,8x1,16m8,16x2,32m16,32x2"),
}
"""`prog_mode` 1, by depth and `start_res`: equal widths."""


def strings(model: Model, side: int) -> Strings:
    """The given options, or a preset for pictures of `side` pixels; a `UserError` if there is none."""
    if model.enc_blocks or model.dec_blocks:
        if not (model.enc_blocks and model.dec_blocks) or model.prog_mode is not None:
            raise UserError("[model] enc_blocks and dec_blocks go together, and without prog_mode")
        outer = model.outer_width or model.width
        return Strings(model.enc_blocks, model.dec_blocks, model.custom_width_str, outer)
    if model.prog_mode is None:
        blocks = f"{model.base_hidden_res}x{model.depth}"
        return Strings(blocks, blocks, model.custom_width_str, model.outer_width or model.width)
    if model.prog_mode == 1:
        pair = EQUAL.get((model.depth, model.start_res))
        if pair is None:
            known = ", ".join(f"({depth}, {start})" for depth, start in EQUAL)
            raise UserError(
                f"[model] prog_mode 1 has no preset of depth {model.depth} and start_res {model.start_res}; "
                f"(depth, start_res) is one of {known}"
            )
        return Strings(*pair, "", model.width if model.start_res == 16 else model.width // 2)
    fitting = [
        s for (width, depth, finest), s in HALVING.items()
        if (width, depth) == (model.width, model.depth) and (finest == 32) == (side == 32)
    ]  # fmt: skip
    if not fitting:
        known = ", ".join(str(key[:2]) + (" of 32x32 pictures" if key[2] == 32 else "") for key in HALVING)
        raise UserError(
            f"[model] prog_mode 0 has no preset of width {model.width} and depth {model.depth} for pictures "
            f"of {side}x{side}; (width, depth) is one of {known}"
        )
    return fitting[0]
