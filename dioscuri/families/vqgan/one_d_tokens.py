"""Layers and parameters of tokenizers whose tokens are a sequence without a grid: TiTok (Yu et al. 2024,
section 3) and TA-TiTok (Kim et al. 2025, section 3.1)."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.families.vqgan.model_options import Tokenizer
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

DRAWN = Init("normal", 0.02)


@dataclass(frozen=True)
class TransformerStack:
    """A transformer over `grid`^2 patches with sides of `patch` pixels, a class token and latent tokens."""

    width: int
    layers: int
    heads: int
    patch: int
    grid: int


@dataclass(frozen=True)
class OneDStacks:
    """Encoder and decoder, the number of latent tokens and that of text tokens; `outputs` is the number of
    values of each position of the decoder."""

    encoder: TransformerStack
    decoder: TransformerStack
    tokens: int
    text: int
    outputs: int


def one_d_stacks(options: Tokenizer, resolution: int, channels: int) -> OneDStacks:
    """Stacks for pictures of this size; a `UserError` names the option that does not fit."""
    encoder, decoder = (_stack(options, side, resolution) for side in ("encoder", "decoder"))
    pixels = options.decoder_output == "pixels"
    outputs = decoder.patch**2 * channels if pixels else options.num_proxy_embeddings
    return OneDStacks(encoder, decoder, options.latent_tokens, options.text_length, outputs)


def _stack(options: Tokenizer, side: str, resolution: int) -> TransformerStack:
    width, layers, heads, patch = (
        getattr(options, f"{side}_{name}") for name in ("width", "layers", "heads", "patch")
    )
    if resolution % patch:
        raise UserError(f"[data] target_res {resolution} must be a multiple of model.{side}_patch {patch}")
    return TransformerStack(width, layers, heads, patch, resolution // patch)


def one_d_table(
    options: Tokenizer, stacks: OneDStacks, channels: int, codebook: Table, proxy_decoder: Table
) -> Table:
    """Every parameter under TiTok's name. `proxy_decoder` has the names of the other tokenizer."""
    encoder, decoder, D = stacks.encoder, stacks.decoder, options.embedding_dim
    vectors = 2 * D if options.quantizer == "gaussian" else D
    table = {"latent_tokens": _embedding(stacks.tokens, encoder.width)}
    table |= _embeddings("encoder", encoder, stacks.tokens)
    table |= _layer("encoder.patch_embed", (encoder.width, channels, *[encoder.patch] * 2), decays=False)
    table |= _transformer("encoder", encoder) | _layer("encoder.conv_out", (vectors, encoder.width, 1, 1))
    table |= _embeddings("decoder", decoder, stacks.tokens)
    table["decoder.mask_token"] = _embedding(1, 1, decoder.width)
    table |= _layer("decoder.decoder_embed", (decoder.width, D), decays=False)
    if stacks.text:
        table["decoder.text_guidance_positional_embedding"] = _embedding(stacks.text, decoder.width)
        table |= _layer("decoder.text_guidance_proj", (decoder.width, options.text_width))
    table |= _transformer("decoder", decoder) | _head(options, stacks, channels)
    if codebook:
        table |= {name: Parameter(code.shape, code.init, decays=False) for name, code in codebook.items()}
    return table | {f"pixel_{name}": parameter for name, parameter in proxy_decoder.items()}


def _head(options: Tokenizer, stacks: OneDStacks, channels: int) -> Table:
    C, outputs = stacks.decoder.width, stacks.outputs
    if options.decoder_output != "pixels":
        return _layer("decoder.ffn.0", (2 * C, C, 1, 1)) | _layer("decoder.ffn.2", (outputs, 2 * C, 1, 1))
    return _layer("decoder.ffn.0", (outputs, C, 1, 1)) | _layer(
        "decoder.conv_out", (channels, channels, 3, 3)
    )


def _embeddings(name: str, stack: TransformerStack, tokens: int) -> Table:
    return {
        f"{name}.class_embedding": _embedding(1, stack.width),
        f"{name}.positional_embedding": _embedding(stack.grid**2 + 1, stack.width),
        f"{name}.latent_token_positional_embedding": _embedding(tokens, stack.width),
    }


def _transformer(name: str, stack: TransformerStack) -> Table:
    C = stack.width
    table = _norm(f"{name}.ln_pre", C) | _norm(f"{name}.ln_post", C)
    for i in range(stack.layers):
        block = f"{name}.transformer.{i}"
        table |= _norm(f"{block}.ln_1", C) | _norm(f"{block}.ln_2", C)
        table[f"{block}.attn.in_proj_weight"] = Parameter((3 * C, C), Init("glorot_uniform"))
        table[f"{block}.attn.in_proj_bias"] = Parameter((3 * C,), ZEROS, decays=False)
        table |= _layer(f"{block}.attn.out_proj", (C, C))
        table |= _layer(f"{block}.mlp.c_fc", (4 * C, C)) | _layer(f"{block}.mlp.c_proj", (C, 4 * C))
    return table


def _embedding(*shape: int) -> Parameter:
    return Parameter(shape, Init("normal", shape[-1] ** -0.5), decays=False)


def _layer(name: str, shape: tuple[int, ...], *, decays: bool = True) -> Table:
    return {
        f"{name}.weight": Parameter(shape, DRAWN, decays),
        f"{name}.bias": Parameter(shape[:1], ZEROS, decays=False),
    }


def _norm(name: str, width: int) -> Table:
    return {
        f"{name}.weight": Parameter((width,), ONES, decays=False),
        f"{name}.bias": Parameter((width,), ZEROS, decays=False),
    }
