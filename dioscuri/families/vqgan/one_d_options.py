"""Options of tokenizers whose tokens are a sequence without a grid: TiTok (Yu et al. 2024) and TA-TiTok
(Kim et al. 2025)."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.schema import option

_TITOK = ("architecture", ("titok",))


@dataclass(frozen=True, kw_only=True)
class OneDTokens:
    """Options of `[model]` that only the architecture titok reads."""

    latent_tokens: int = option(0, low=0, high=2**14, needs=_TITOK, doc="titok: tokens of a picture")
    encoder_patch: int = option(
        16, low=1, high=2**10, needs=_TITOK, doc="titok: side of the encoder's patches"
    )
    encoder_width: int = option(512, low=1, high=2**14, needs=_TITOK, doc="titok: width of the encoder")
    encoder_layers: int = option(8, low=1, high=1000, needs=_TITOK, doc="titok: layers of the encoder")
    encoder_heads: int = option(
        8, low=1, high=2**10, needs=_TITOK, doc="titok: attention heads of the encoder"
    )
    decoder_patch: int = option(
        16, low=1, high=2**10, needs=_TITOK, doc="titok: side of the decoder's patches"
    )
    decoder_width: int = option(512, low=1, high=2**14, needs=_TITOK, doc="titok: width of the decoder")
    decoder_layers: int = option(8, low=1, high=1000, needs=_TITOK, doc="titok: layers of the decoder")
    decoder_heads: int = option(
        8, low=1, high=2**10, needs=_TITOK, doc="titok: attention heads of the decoder"
    )
    decoder_output: str = option(
        "pixels",
        choices=("pixels", "proxy_codes", "proxy_pixels"),
        needs=_TITOK,
        doc="titok: what the decoder makes. pixels: patches, training in one stage; proxy_codes: "
        "logits of another tokenizer's codes, the first of two stages (needs loss.proxy_path); "
        "proxy_pixels: these codes' vectors, mixed by their probabilities, are decoded by that tokenizer's "
        "decoder, which is trained together with this one's while the encoder stays, the second stage",
    )
    num_proxy_embeddings: int = option(
        1024,
        low=2,
        high=2**24,
        needs=("decoder_output", ("proxy_codes", "proxy_pixels")),
        doc="titok: codes of that other tokenizer; with proxy_pixels, hidden_channels, channel_mult, "
        "num_res_blocks, z_channels, norm_groups and legacy_shortcut describe it, an architecture 'maskgit'",
    )
    text_length: int = option(
        0,
        low=0,
        high=2**14,
        needs=_TITOK,
        doc="titok: tokens of the text that the decoder reads (TA-TiTok); 0: none",
    )
    text_width: int = option(
        768, low=1, high=2**14, needs=("text_length", ()), doc="titok: width of the encoded text"
    )
    legacy_latent_reshape: bool = option(
        False,
        needs=_TITOK,
        doc="titok: the encoder's vectors (tokens, width) are read as (width, tokens) without transposing "
        "them; the published weights of L-32, B-64 and S-128 need it",
    )


def check_one_d(options: OneDTokens) -> None:
    """Raise a `UserError` that names an option of titok that does not fit."""
    if not options.latent_tokens:
        raise UserError(
            "[model] architecture 'titok' needs latent_tokens, the tokens of a picture, such as 32"
        )
    proxied = options.decoder_output == "proxy_pixels"
    for name in ("hidden_channels", "channel_mult", "z_channels"):
        if bool(getattr(options, name)) != proxied:
            raise UserError(
                f"[model] {name} describes the decoder of the other tokenizer: "
                + ("set it" if proxied else f"leave it out with decoder_output '{options.decoder_output}'")
            )
    for side in ("encoder", "decoder"):
        width, heads = getattr(options, f"{side}_width"), getattr(options, f"{side}_heads")
        if width % heads:
            raise UserError(f"[model] {side}_width {width} must be a multiple of {side}_heads {heads}")
    if options.text_length and options.decoder_output != "pixels":
        raise UserError("[model] text_length is for decoder_output 'pixels' only: set it to 0")
