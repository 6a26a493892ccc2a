"""TiTok's tokenizer and generator of PyTorch's plain layers, for `plain_layers.py`."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Stack(nn.Module):
    """A class token, patches and latents, with positions, through a transformer: (B, L, C) -> the same."""

    def __init__(self, stack: Any, tokens: int) -> None:
        super().__init__()
        length = 1 + stack.grid**2 + tokens
        self.start = nn.Parameter(torch.zeros(1, 1, stack.width))
        self.positions = nn.Parameter(torch.zeros(length, stack.width))
        self.norm, self.last_norm = nn.LayerNorm(stack.width), nn.LayerNorm(stack.width)
        self.layers = _transformer(stack.width, stack.heads, 4 * stack.width, stack.layers, norm_first=True)

    def forward(self, *tokens: Tensor) -> Tensor:
        x = torch.cat([self.start.expand(len(tokens[0]), -1, -1), *tokens], 1) + self.positions
        return self.last_norm(self.layers(self.norm(x)))


class Tokenizer(nn.Module):
    """Pictures uint8 (B, H, W, C) -> codes -> pictures."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        stacks = plan.one_d
        encoder, decoder, self.tokens = stacks.encoder, stacks.decoder, stacks.tokens
        self.patches = nn.Conv2d(plan.channels, encoder.width, encoder.patch, encoder.patch)
        self.latents = nn.Parameter(torch.zeros(1, stacks.tokens, encoder.width))
        self.encoder, self.decoder = Stack(encoder, stacks.tokens), Stack(decoder, stacks.tokens)
        self.vectors = nn.Linear(encoder.width, plan.embedding_dim)
        self.codebook = nn.Embedding(plan.codebook_size, plan.embedding_dim)
        self.embed = nn.Linear(plan.embedding_dim, decoder.width)
        self.masks = nn.Parameter(torch.zeros(1, decoder.grid**2, decoder.width))
        self.pixels = nn.Linear(decoder.width, stacks.outputs)
        self.smooth = nn.Conv2d(plan.channels, plan.channels, 3, padding=1)
        self.patch = decoder.patch
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        B, n = len(x), self.masks.shape[1]
        patches = self.patches(x).flatten(2).transpose(1, 2)
        z = self.vectors(self.encoder(patches, self.latents.expand(B, -1, -1))[:, -self.tokens :])
        codes = F.normalize(self.codebook.weight, dim=-1)
        indices = (F.normalize(z, dim=-1) @ codes.T).argmax(-1)
        x = self.decoder(self.masks.expand(B, -1, -1), self.embed(codes[indices]))
        x = self.pixels(x[:, 1 : n + 1]).transpose(1, 2)
        side = self.patch * int(n**0.5)
        return self.smooth(F.fold(x, side, self.patch, stride=self.patch))

    @torch.inference_mode()
    def run(self, pictures: np.ndarray) -> np.ndarray:
        """Rows of pictures, there and back."""
        x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
        return (self(x).clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()


class Generator(nn.Module):
    """Ids (B, L) -> logits (B, L, V): BERT."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        o = plan.options
        self.words = nn.Embedding(plan.vocab_size, o.hidden_size)
        self.positions = nn.Parameter(torch.zeros(plan.length, o.hidden_size))
        self.norm = nn.LayerNorm(o.hidden_size)
        self.layers = _transformer(
            o.hidden_size, o.num_attention_heads, o.intermediate_size, o.num_hidden_layers, norm_first=False
        )
        self.head = nn.Linear(o.hidden_size, plan.outputs)
        self.eval()

    @torch.inference_mode()
    def run(self, ids: np.ndarray) -> np.ndarray:
        """Logits of rows of ids."""
        x = self.norm(self.words(torch.from_numpy(ids)) + self.positions)
        return self.head(self.layers(x)).numpy()


def _transformer(width: int, heads: int, inner: int, layers: int, *, norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        width, heads, inner, 0.0, "gelu", batch_first=True, norm_first=norm_first
    )
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
