"""Options of families that encode captions of pictures while they train."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option


@dataclass(frozen=True, kw_only=True)
class CaptionFiles:
    """Where encoded captions are kept, and when they are encoded; `text_encoder_path` switches them on."""

    text_cache_path: str = option(
        "",
        path=True,
        needs=("text_encoder_path", ()),
        doc="folder of encoded captions, which runs share; empty: 'texts' in DIOSCURI_CACHE or "
        "~/.cache/dioscuri",
    )
    encode_first: bool = option(
        False,
        needs=("text_encoder_path", ()),
        doc="encode all captions before the first step, instead of each when it first appears in a batch",
    )
