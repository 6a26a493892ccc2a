"""Tokenizers whose tokens are a sequence without a grid: TiTok (Yu et al. 2024, section 3) and TA-TiTok,
whose decoder also reads text (Kim et al. 2025, section 3.1).

Pictures are (B, H, W, C) in the plan's range, vectors and codes (B, 1, T, D), indices (B, T), texts
(B, S, E). Modules have the names of the published weights.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from dioscuri.errors import UserError
from dioscuri.families.vqgan.one_d_tokens import TransformerStack
from dioscuri.families.vqgan.plan import TokenizerPlan
from torch_impl.layers.attention import PackedAttention
from torch_impl.layers.dense import PointwiseDense
from torch_impl.layers.precision import at_least_float32, weights_dtype
from torch_impl.layers.quantizers import Quantised, make_quantizer
from torch_impl.layers.stack import call
from torch_impl.models.vqgan import Decoder, Tokenizer

Tensors = Mapping[str, Tensor]
EPSILON = 1e-5
"""Added to the variance in norms."""


class TransformerBlock(nn.Module):
    """Attention and a dense layer, each after a norm: (B, L, C) -> the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, EPSILON)
        self.attn = PackedAttention(width, heads)
        self.ln_2 = nn.LayerNorm(width, EPSILON)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x))))


class Patches(nn.Conv2d):
    """A vector per patch (kernel = stride): (B, H, W, I) -> (B, H W / s^2, O)."""

    def __init__(self, channels: int, width: int, side: int) -> None:
        super().__init__(channels, width, side, side)

    def forward(self, x: Tensor) -> Tensor:
        """Patches do not overlap, so this is a matrix product."""
        s, _ = self.kernel_size
        x = rearrange(x, "b (h s) (w t) c -> b (h w) (s t c)", s=s, t=s)
        return F.linear(x, rearrange(self.weight, "o i s t -> o (s t i)"), self.bias)


class LatentTransformer(nn.Module):
    """What encoder and decoder share: embeddings of a class token, of positions and of latent tokens, and
    layers."""

    def __init__(self, stack: TransformerStack, tokens: int, recomputed: bool) -> None:
        super().__init__()
        C = stack.width
        self.class_embedding = nn.Parameter(torch.zeros(1, C))
        self.positional_embedding = nn.Parameter(torch.zeros(stack.grid**2 + 1, C))
        self.latent_token_positional_embedding = nn.Parameter(torch.zeros(tokens, C))
        self.ln_pre = nn.LayerNorm(C, EPSILON)
        self.transformer = nn.ModuleList(TransformerBlock(C, stack.heads) for _ in range(stack.layers))
        self.ln_post = nn.LayerNorm(C, EPSILON)
        self.stack, self.recomputed = stack, recomputed

    def sequence(self, patches: Tensor, latents: Tensor, *more: Tensor) -> Tensor:
        """Class token, patches (B, G^2, C) and latents (B, T, C), each with its position, and more tokens,
        after all layers: (B, 1 + G^2 + T + ..., C)."""
        start = repeat(self.class_embedding, "n c -> b n c", b=len(patches))
        x = torch.cat([start, patches], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([x, latents + self.latent_token_positional_embedding, *more], 1))
        for block in self.transformer:
            x = call(block, x, checkpoint=self.recomputed)
        return x


class OneDEncoder(LatentTransformer):
    """Pictures (B, H, W, C) -> vectors (B, 1, T, O)."""

    def __init__(self, plan: TokenizerPlan, outputs: int, recomputed: bool) -> None:
        assert plan.one_d is not None
        stack, tokens = plan.one_d.encoder, plan.one_d.tokens
        super().__init__(stack, tokens, recomputed)
        self.patch_embed = Patches(plan.channels, stack.width, stack.patch)
        self.conv_out = PointwiseDense(stack.width, outputs)
        self.tokens, self.reshaped = tokens, plan.options.legacy_latent_reshape

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """`latents` (T, C) are the tokens' learnt first vectors."""
        x = self.sequence(self.patch_embed(x), repeat(latents, "t c -> b t c", b=len(x)))
        x = self.ln_post(x[:, -self.tokens :])
        if self.reshaped:
            x = rearrange(rearrange(x, "b t c -> b (t c)"), "b (c t) -> b t c", t=self.tokens)
        return rearrange(self.conv_out(x), "b t c -> b 1 t c")


class OneDDecoder(LatentTransformer):
    """Codes (B, 1, T, D) -> pictures (B, H, W, C) before the last convolution, or logits (B, G, G, K) of
    another tokenizer's codes."""

    def __init__(self, plan: TokenizerPlan, recomputed: bool) -> None:
        assert plan.one_d is not None
        options, stack, outputs = plan.options, plan.one_d.decoder, plan.one_d.outputs
        super().__init__(stack, plan.one_d.tokens, recomputed)
        C = stack.width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, C))
        self.decoder_embed = nn.Linear(plan.embedding_dim, C)
        self.reads_text, self.to_pixels = plan.one_d.text > 0, options.decoder_output == "pixels"
        if self.reads_text:
            self.text_guidance_proj = nn.Linear(options.text_width, C)
            self.text_guidance_positional_embedding = nn.Parameter(torch.zeros(plan.one_d.text, C))
        if self.to_pixels:
            self.ffn: Any = nn.ModuleDict({"0": PointwiseDense(C, outputs)})
            self.conv_out = nn.Conv2d(plan.channels, plan.channels, 3, padding=1)
        else:
            self.ffn = nn.ModuleDict({"0": PointwiseDense(C, 2 * C), "2": PointwiseDense(2 * C, outputs)})

    def forward(self, codes: Tensor, text: Tensor | None = None) -> Tensor:
        latents = self.decoder_embed(rearrange(codes, "b 1 t d -> b t d"))
        more = []
        if self.reads_text:
            if text is None:
                raise UserError("this tokenizer decodes tokens together with a text, and none is given")
            more = [self.text_guidance_proj(text.to(latents.dtype)) + self.text_guidance_positional_embedding]
        n = self.stack.grid**2
        x = self.sequence(self.mask_token.expand(len(codes), n, -1), latents, *more)
        x = self.ffn["0"](self.ln_post(x[:, 1 : n + 1]))
        if not self.to_pixels:
            x = self.ffn["2"](x.tanh())
            return rearrange(x, "b (h w) k -> b h w k", h=self.stack.grid)
        h, s = self.stack.grid, self.stack.patch
        return rearrange(x, "b (h w) (s t c) -> b (h s) (w t) c", h=h, s=s, t=s)


class OneDTokenizer(Tokenizer):
    """Encoder, quantiser and decoder; in the second of two stages, also the codes and the decoder of another
    tokenizer, and then encoder and quantiser are not trained."""

    def __init__(self, plan: TokenizerPlan, checkpoint: bool = False) -> None:
        nn.Module.__init__(self)
        assert plan.one_d is not None
        options, stacks = plan.options, plan.one_d
        self.plan = plan
        self.latent_tokens = nn.Parameter(torch.zeros(stacks.tokens, stacks.encoder.width))
        self.encoder = OneDEncoder(plan, plan.encoder_outputs, checkpoint)
        self.quantize = make_quantizer(options)
        self.decoder: Any = OneDDecoder(plan, checkpoint)
        if plan.proxy is not None:
            codes = nn.Embedding(plan.proxy.codebook_size, plan.proxy.embedding_dim)
            self.pixel_quantize: Any = nn.ModuleDict({"embedding": codes})
            self.pixel_decoder = Decoder(plan.proxy, checkpoint)

    def encode(self, x: Tensor, noise: Tensors | None = None) -> Tensor:
        """Pictures -> vectors (B, 1, T, D) to quantise; nothing is random."""
        del noise
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.plan.proxy is None):
            z: Tensor = self.encoder(x.to(weights_dtype(self.encoder)), self.latent_tokens)
        return z

    def quantise(
        self,
        z: Tensor,
        noise: Tensors | None = None,
        scalars: Tensors | None = None,
        buffers: Tensors | None = None,
        *,
        train: bool = False,
    ) -> Quantised:
        """Codes of the vectors; see `Tokenizer`. The second stage has no losses."""
        if self.plan.proxy is not None and train:
            quantised = super().quantise(z)
            zero = torch.zeros((), dtype=quantised.codes.dtype, device=z.device)
            quantised = quantised._replace(codes=quantised.codes.detach(), losses={"quantiser": zero})
        else:
            quantised = super().quantise(z, noise, scalars, buffers, train=train)
        return quantised._replace(indices=rearrange(quantised.indices, "b 1 t -> b t"))

    def logits(self, codes: Tensor, text: Tensor | None = None) -> Tensor:
        """Codes -> the decoder's output, see `OneDDecoder`."""
        logits: Tensor = self.decoder(codes.to(weights_dtype(self.decoder)), text)
        return logits

    def decode_trunk(self, codes: Tensor, noise: Tensors | None = None, text: Tensor | None = None) -> Tensor:
        """Codes -> (B, H, W, F), for `output`."""
        x = self.logits(codes, text)
        if self.plan.proxy is None:
            return x
        rows = at_least_float32(self.pixel_quantize["embedding"].weight)
        states = (at_least_float32(x).softmax(-1) @ rows).to(x.dtype)
        states = rearrange(states, "b h w c -> b c h w")
        return rearrange(self.pixel_decoder(states, noise or {}, states), "b c h w -> b h w c")

    def output(self, trunk: Tensor) -> Tensor:
        """(B, H, W, F) -> pictures, not clamped; in the first of two stages, the logits themselves."""
        if self.plan.options.decoder_output == "proxy_codes":
            return trunk
        layer = self.decoder.conv_out if self.plan.proxy is None else self.pixel_decoder.conv_out
        return rearrange(layer(rearrange(trunk, "b h w c -> b c h w")), "b c h w -> b h w c")

    def decode(self, codes: Tensor, text: Tensor | None = None) -> Tensor:
        """Codes -> pictures, not clamped."""
        return self.output(self.decode_trunk(codes, text=text))

    def decode_indices(self, indices: Tensor, text: Tensor | None = None) -> Tensor:
        """Indices (B, T) -> pictures, not clamped."""
        return self.decode(self.quantize.lookup(rearrange(indices, "b t -> b 1 t")), text)
