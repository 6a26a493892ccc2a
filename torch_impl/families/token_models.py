"""The methods that MaskGIT and SUNDAE share: those of their tokenizer.

Tokens are integers (B, L), those of a grid row by row; pictures are uint8 NHWC.
"""
# ruff: noqa: ARG002 - the engine passes these arguments

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from dioscuri.data.texts import DECODER_TEXT
from dioscuri.errors import UserError
from dioscuri.plans.noise import NoiseSpec
from torch_impl.families.frozen_tokenizer import FrozenTokenizer, GreyLevels
from torch_impl.families.methods import FamilyMethods

Tensors = Mapping[str, Tensor]


class TokenModelMethods(FamilyMethods):
    """Families set `tokenizer`, which encodes pictures; None if the examples are tokens."""

    plan: Any
    tokenizer: FrozenTokenizer | GreyLevels | None

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the noise."""
        return torch.float64 if self.hparams.train.precision == "float64" else torch.float32

    def _training_noise(self, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise of a training step for a batch of this size."""
        raise NotImplementedError

    def noise_specs(self, method: str, batch: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Noise of a method for a batch of this size, for any of its options."""
        if method == "train_step":
            return self._training_noise(batch)
        return (NoiseSpec("sampling", "generator", ()),) if method in ("generate", "inpaint") else ()

    def encode(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`tokens` (B, L) of pictures `image`."""
        return {"tokens": self._tokens(batch, frozen).to(torch.int32)}

    def decode(self, model: Any, batch: Tensors, noise: Tensors, frozen: Tensors) -> dict[str, Tensor]:
        """`image` (B, H, W, C) of `tokens` (B, L) and, for a tokenizer that reads them, `decoder_text`."""
        tokens = batch["tokens"].reshape(-1, *self.plan.token_shape)
        text = {"text": batch[DECODER_TEXT]} if DECODER_TEXT in batch else {}
        return {"image": self._codec().decode(tokens, frozen, **text)}

    def _tokens(self, batch: Tensors, frozen: Tensors) -> Tensor:
        """The batch's tokens, or those of its pictures, int64."""
        if "tokens" in batch:
            return batch["tokens"].to(torch.int64)
        return rearrange(self._codec().encode(batch["image"], frozen), "b ... -> b (...)")

    def _codec(self) -> Any:
        """The tokenizer; a `UserError` if there is none."""
        if self.tokenizer is None:
            raise UserError(
                "[data] tokenizer_path is empty, but pictures need a tokenizer: give its run folder"
            )
        return self.tokenizer

    def _results(
        self,
        tokens: Tensor,
        batch: Tensors,
        frozen: Tensors,
        steps: Tensor | None = None,
        masked: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Of a sampler, for the conditions of a batch: `tokens` (B, L), with a tokenizer `image`
        (B, H, W, C), and, given as (T, B, L), `steps` and `masked` (B, T, L)."""
        results = {"tokens": tokens.to(torch.int32)}
        if self.tokenizer is not None:
            texts = {name: batch[name] for name in (DECODER_TEXT,) if name in batch}
            results |= self.decode(None, {**texts, **results}, {}, frozen)
        if steps is not None and masked is not None:
            results["steps"] = rearrange(steps, "t b l -> b t l").to(torch.int32)
            results["masked"] = rearrange(masked, "t b l -> b t l")
        return results
