"""Block strings of VD-VAE and Metroplex: '16x5,16d2,8x2' down, '1x1,4m1,4x2' up."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from dioscuri.errors import UserError

MAX_BLOCKS = 10_000


@dataclass(frozen=True)
class EncoderStep:
    """One encoder block, and the factor of the pooling after it."""

    resolution: int
    pool: int

    @property
    def out_resolution(self) -> int:
        """Resolution after pooling."""
        return self.resolution // self.pool


@dataclass(frozen=True)
class DecoderStep:
    """One decoder block, and the resolution whose state it first adds; 0: none."""

    resolution: int
    mixin: int


def encoder_blocks(text: str) -> tuple[EncoderStep, ...]:
    """`RxN`: N blocks at resolution R; `RdK`: a block at R, then pooling by K; `R`: one block.

    A `UserError` names a resolution that is skipped or does not divide.
    """
    steps: list[EncoderStep] = []
    for word, resolution, kind, number in _words(text, "xd", "enc_blocks"):
        if steps and resolution != steps[-1].out_resolution:
            raise UserError(
                f"[model] enc_blocks '{text}': '{word}' begins at resolution {resolution}, but the blocks "
                f"before it end at {steps[-1].out_resolution}"
            )
        if kind == "d" and resolution % number:
            raise UserError(f"[model] enc_blocks '{text}': '{word}' divides {resolution} by {number}")
        steps += [EncoderStep(resolution, number if kind == "d" else 1)] * (1 if kind == "d" else number)
        _check_number(len(steps), "enc_blocks")
    return tuple(steps)


def enlarging_blocks(text: str) -> tuple[EncoderStep, ...]:
    """Blocks of a decoder without latents, in the encoder's notation: after its block, `RdK` enlarges by K.

    `resolution` is that of a block and `pool` the factor after it; a `UserError` names a resolution that is
    skipped.
    """
    steps: list[EncoderStep] = []
    reached = 0
    for word, resolution, kind, number in _words(text, "xd", "dec_blocks"):
        if steps and resolution != reached:
            raise UserError(
                f"[model] dec_blocks '{text}': '{word}' begins at resolution {resolution}, but the blocks "
                f"before it end at {reached}"
            )
        steps += [EncoderStep(resolution, number if kind == "d" else 1)] * (1 if kind == "d" else number)
        reached = resolution * steps[-1].pool
        _check_number(len(steps), "dec_blocks")
    return tuple(steps)


def decoder_blocks(text: str) -> tuple[DecoderStep, ...]:
    """`RxN`: N blocks at resolution R; `RmM`: a block at R that adds the state of resolution M; `R`: one.

    A `UserError` names a resolution that is skipped or does not divide.
    """
    steps: list[DecoderStep] = []
    for word, resolution, kind, number in _words(text, "xm", "dec_blocks"):
        seen = {step.resolution for step in steps}
        if kind == "m" and (number not in seen or resolution % number or resolution == number):
            raise UserError(
                f"[model] dec_blocks '{text}': '{word}' adds resolution {number}, which no earlier block has "
                f"or which does not divide {resolution}"
            )
        if kind != "m" and steps and resolution not in seen:
            raise UserError(
                f"[model] dec_blocks '{text}': '{word}' skips what comes before it: write "
                f"'{resolution}m{steps[-1].resolution}' first"
            )
        mixin = number if kind == "m" else 0
        steps += [DecoderStep(resolution, mixin)] * (1 if kind == "m" else number)
        _check_number(len(steps), "dec_blocks")
    return tuple(steps)


def widths(text: str, default: int) -> Callable[[int], int]:
    """'16:64,8:128' -> a function from resolution to width, `default` for resolutions not listed."""
    custom = table(text, "custom_width_str")
    return lambda resolution: custom.get(resolution, default)


def table(text: str, option: str) -> dict[int, int]:
    """'16:64,8:128' -> {16: 64, 8: 128}; a `UserError` names the option."""
    what = {"custom_width_str": "WIDTH", "custom_frames_str": "FRAMES"}[option]
    values: dict[int, int] = {}
    for word in filter(None, (entry.strip() for entry in text.split(","))):
        match = re.fullmatch(r"(\d{1,6}):(\d{1,6})", word)
        if not match or not int(match[1]) or not int(match[2]):
            raise UserError(f"[model] {option}: '{word}' is not RESOLUTION:{what}")
        values[int(match[1])] = int(match[2])
    return values


def _words(text: str, kinds: str, option: str) -> list[tuple[str, int, str, int]]:
    """(word, resolution, kind, number) of every word; a bare number is one block."""
    words = []
    for word in (entry.strip() for entry in text.split(",")):
        match = re.fullmatch(rf"(\d{{1,6}})(?:([{kinds}])(\d{{1,6}}))?", word)
        if not match or "0" in (match[1], match[3]):
            raise UserError(
                f"[model] {option}: '{word}' is not a block: write RESOLUTIONxNUMBER or "
                f"RESOLUTION{kinds[1]}{'FACTOR' if kinds[1] == 'd' else 'RESOLUTION'}"
            )
        words.append((word, int(match[1]), match[2] or "x", int(match[3] or 1)))
    return words


def _check_number(n: int, option: str) -> None:
    if n > MAX_BLOCKS:
        raise UserError(f"[model] {option} has more than {MAX_BLOCKS:,} blocks")
