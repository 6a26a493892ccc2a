"""Image tokenizers in the Python interface: pictures to tokens and back."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dioscuri.data.text_encoder import TextSource
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.face.model import BATCH_SIZE, Model
from dioscuri.face.text_reader import TextReader, read_texts
from dioscuri.face.usual import Values, halvings
from dioscuri.families.vqgan import stages
from dioscuri.families.vqgan import training as tokenizer_training
from dioscuri.families.vqgan.logic import network_options
from dioscuri.families.vqgan.plan import TokenizerPlan, codebook_name, plan_of
from dioscuri.inputs import read_tokens, to_array
from dioscuri.plans.parameters import shapes


class TokenizerModel(Model):
    """An image tokenizer (Esser et al. 2021): `encode`, `decode`, `reconstruct`.

    `loss` is the sum of all training objectives: reconstruction, LPIPS if `loss.lpips_path` names its
    weights, the quantiser's losses and, if the options include a discriminator, the adversarial loss and the
    discriminator's loss. Each of the two networks gets gradients from its own losses only. A model from `new`
    has the discriminator as `module.discriminator`; `save` and `load` leave it out.
    `schedules={"adversarial": 0}` switches the discriminator off. With `loss.alternating`, `train` updates
    the discriminator first and then the tokenizer; `loss` is still the sum.

    A tokenizer whose decoder reads texts (TA-TiTok, Kim et al. 2025) takes `text` with `decode` and
    `reconstruct`: captions, one for each picture or one for all, if a text encoder is there
    (`load(..., text_encoder=)`), or encoded states (N, S, E).
    """

    does = ("encode", "decode", "reconstruct")
    keeps_origin = True
    _reader: TextReader | None = None

    @property
    def plan(self) -> TokenizerPlan:
        """Every layer."""
        return plan_of(self.hparams)

    @property
    def grid(self) -> int:
        """Side of the grid of tokens; 0 for sequences without a grid."""
        return self.plan.grid

    @property
    def sequence_length(self) -> int:
        """Number of tokens of a sequence without a grid, else 0."""
        return self.plan.sequence_length

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.plan.codebook_size

    @property
    def reads_text(self) -> bool:
        """Whether the decoder reads a text."""
        return self.plan.one_d is not None and self.plan.one_d.text > 0

    def read_with(self, source: TextSource) -> None:
        """Use this text encoder for captions; a `UserError` if the decoder reads no text."""
        if not self.reads_text:
            super().read_with(source)
        model = self.hparams.model
        self._reader = TextReader(source, model.text_length, {"text": model.text_width})

    def encode(
        self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE
    ) -> Array:
        """Tokens int32 (N, h, w), or (N, L) without a grid, of pictures. Nothing is sampled: `seed` and
        `noise` have no effect."""
        image = self._pictures(pictures)
        return self._run("encode", {"image": image}, noise=noise, seed=seed, batch_size=batch_size)["tokens"]

    def decode(self, codes: Any, *, text: Any = None, batch_size: int = BATCH_SIZE, **options: Any) -> Array:
        """Pictures uint8 (N, H, W, C) from tokens (N, h, w), (N, h * w) or (N, L), and `text` for a decoder
        that reads it."""
        self._no_options("decode", options)
        shape = self.plan.token_shape
        tokens = read_tokens(codes, shape, self.codebook_size)
        rows = {"tokens": tokens.reshape(-1, *shape), **self._text(text, len(tokens))}
        return self._run("decode", rows, noise=None, seed=0, batch_size=batch_size)["image"]

    def reconstruct(
        self, pictures: Any, *, text: Any = None, batch_size: int = BATCH_SIZE, **options: Any
    ) -> Array:
        """Pictures uint8 (N, H, W, C) encoded and decoded, with `text` for a decoder that reads it."""
        self._no_options("reconstruct", options)
        image = self._pictures(pictures)
        rows = {"image": image, **self._text(text, len(image))}
        return self._run("reconstruct", rows, noise=None, seed=0, batch_size=batch_size)["image"]

    def read_text(self, given: Any, *, n: int | None = None, what: str = "text") -> Array:
        """Texts as the decoder's states float32 (N, S, E): captions, which the text encoder reads, or states.

        With `n` there must be n of them, or one for all. A `UserError` says what is wrong.
        """
        shape = (self.hparams.model.text_length, self.hparams.model.text_width)
        if isinstance(given, str) or (
            isinstance(given, list | tuple) and given and isinstance(given[0], str)
        ):
            return self._captions(read_texts(given, what, n=n, empty=True))
        rule = f"{what} must be captions or their encoded states (N, {shape[0]}, {shape[1]})"
        states = to_array(given, rule)
        if states.ndim != 3 or states.shape[1:] != shape or (n is not None and len(states) not in (1, n)):
            raise UserError(f"{rule}; got {states.dtype} {states.shape}{'' if n is None else f' for {n}'}")
        if not np.isfinite(states).all():
            raise UserError(f"{what} holds values that are not finite")
        return np.broadcast_to(states, (n or len(states), *shape)).astype(np.float32)

    @classmethod
    def network_options(cls, hparams: Any) -> Any:
        """The options without the discriminator, which only training needs."""
        return network_options(hparams)

    @classmethod
    def new_options(cls, hparams: Any) -> Any:
        """Options with which discriminator and tokenizer are updated together, since `loss` is one number."""
        return replace(hparams, loss=replace(hparams.loss, alternating=False))

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter, those of a discriminator included."""
        return shapes(tokenizer_training.parameter_table(hparams))

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        return stages.initial_weights(hparams, seed)

    @classmethod
    def buffers_of(cls, hparams: Any, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Averages that give the trained codebook, and initial values of the other buffers."""
        codebook = weights.get(codebook_name(plan_of(hparams)))
        return tokenizer_training.initial_buffers(hparams, hparams.run.seed, codebook)

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options: MaskGIT's tokenizer (Chang et al. 2022), with grids of 4 to 16 tokens per side."""
        side = int(given["data"]["target_res"])
        factors = (1, 2, 2, 4, 4)[: 1 + halvings(side, max(1, min(4, side.bit_length() - 4)))]
        return {
            "model": {
                "architecture": "maskgit",
                "hidden_channels": 64,
                "channel_mult": factors,
                "num_res_blocks": 2,
                "z_channels": 64,
                "embedding_dim": 64,
                "num_embeddings": 1024,
                **given.get("model", {}),
            },
            "synthesis": {"synthesis_mode": "reconstruction"},
        }

    @property
    def _names(self) -> tuple[str, ...]:
        return ("image", "text") if self.reads_text else ("image",)

    @property
    def _conditions_of_batch(self) -> tuple[str, ...]:
        return ("text",) if self.reads_text else ()

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        return self.read_text(value) if name == "text" else super()._checked(name, value, padded=padded)

    def _text(self, given: Any, n: int) -> dict[str, Array]:
        """The text that the decoder reads besides n rows of tokens."""
        if not self.reads_text:
            if given is not None:
                raise UserError("text: this tokenizer's decoder reads no text: leave it out")
            return {}
        if given is None:
            raise UserError(
                "this tokenizer decodes tokens together with a text: give text=, captions or their states"
            )
        return {"text": self.read_text(given, n=n)}

    def _captions(self, texts: list[str]) -> Array:
        """States of captions."""
        if self._reader is None:
            raise UserError(
                "this tokenizer has no text encoder to read captions: name one, a folder or hub id, with "
                "text_encoder= of load, or give encoded states"
            )
        device = self.device if self.twin == "torch" else "cpu"
        self._reader.tell_cuts(texts, device)
        return self._reader.states(texts, -1, device)["text"]

    def _final_schedules(self) -> dict[str, float]:
        hparams, steps = self.hparams, self.hparams.train.total_train_steps
        adversarial = hparams.discriminator.type != "none" and steps >= hparams.loss.disc_start
        temperature = tokenizer_training.gumbel_temperature(steps, hparams.model)
        return {"adversarial": float(adversarial), "gumbel_temperature": temperature}


FACE = TokenizerModel
