"""The model that `load`, `new` and `train` return: its methods, and the code that all families share."""
# ruff: noqa: ARG002 - methods that a family may lack take the arguments of the families that have them

import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

import numpy as np

from dioscuri.checkpoint.pretrained import (
    CONFIG,
    TOKENIZER,
    is_folder,
    without_discriminator,
    write_folder,
)
from dioscuri.data.text_encoder import TextSource
from dioscuri.engine import Array, split_arguments
from dioscuri.errors import UserError
from dioscuri.face.adapters import Adaptable
from dioscuri.face.network import Network, precision_of
from dioscuri.face.recorded import checked_noise
from dioscuri.face.usual import Values
from dioscuri.files import read_path
from dioscuri.hub import INDEX
from dioscuri.inputs import check_names, read_count, read_seed
from dioscuri.registry import family_module

METHODS = (
    *("encode", "decode", "generate", "inpaint", "edit", "reconstruct", "bound", "score", "interpolate"),
    *("traverse", "mix", "classify", "compress", "decompress", "detect"),
)
"""Methods of models; each family has some of them."""

BATCH_SIZE = 64
"""Default number of rows that a network processes at once."""


class Model(Adaptable):
    """A network with its options, ready to use, fine-tune and save.

    Input pictures are PIL images, uint8 (N, H, W, C) or floats in [0, 1] of that shape; output pictures are
    uint8 (N, H, W, C). `does` names the methods that the model has; the others, and invalid input, raise a
    `dioscuri.UserError`.
    """

    keeps_origin: ClassVar[bool] = False
    """Whether a saved model records its run's checkpoint, since other models may be trained on its tokens."""
    call_options: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    """Options by method that replace the model's, such as those of a published pipeline for inpainting."""
    on_batch: Callable[[int, int], object] | None = None
    """Called before every batch of a method with the number of rows done and of all rows, for example to show
    progress; an exception that it raises ends the method."""

    def __init__(self, network: Network, *, tokenizer: "Model | None" = None, origin: Any = None) -> None:
        self._network, self._tokenizer = network, tokenizer
        self._origin = dict(origin or {})
        self._fingerprint = self._hash() if self._origin else ""

    @property
    def tokenizer(self) -> "Model | None":
        """The model that turns pictures into tokens and back, if there is a separate one."""
        tokenizer: Model | None = self._tokenizer
        return tokenizer

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the network without the tokenizer."""
        return sum(map(prod, self._network.shapes.values()))

    def __repr__(self) -> str:
        data = self.hparams.data
        beside = "" if self.tokenizer is None else f", tokenizer of {self.tokenizer.num_parameters:,}"
        return (
            f"<{type(self).__name__} '{self.hparams.run.name}' of family {self.family}, "
            f"{self._network.name}: {self.num_parameters:,} parameters{beside}, "
            f"{f'{data.frames}x' if data.frames else ''}{data.target_res}x{data.target_res}x{data.channels}>"
        )

    # What it does.

    def encode(self, pictures: Any, *, seed: int = 0, noise: Any = None, batch_size: int = BATCH_SIZE) -> Any:
        """Encodings of pictures: tokens int32 (N, h, w), latents by name, or features."""
        raise self._cannot("encode")

    def decode(self, codes: Any, *, batch_size: int = BATCH_SIZE, **options: Any) -> Array:
        """Pictures uint8 (N, H, W, C) from what `encode` returns."""
        raise self._cannot("decode")

    def generate(self, n: int | None = None, *, seed: int = 0, noise: Any = None, **options: Any) -> Array:
        """New pictures uint8 (N, H, W, C)."""
        raise self._cannot("generate")

    def inpaint(self, pictures: Any, mask: Any, *, seed: int = 0, noise: Any = None, **options: Any) -> Array:
        """Pictures whose pixels are sampled again where `mask` is True."""
        raise self._cannot("inpaint")

    def edit(
        self, pictures: Any, *, strength: float = 0.5, seed: int = 0, noise: Any = None, **options: Any
    ) -> Array:
        """Pictures of which a share, given by `strength` from 0 to 1, is sampled again at random places."""
        raise self._cannot("edit")

    def reconstruct(self, pictures: Any, *, batch_size: int = BATCH_SIZE, **options: Any) -> Array:
        """Pictures encoded and decoded, uint8 (N, H, W, C)."""
        raise self._cannot("reconstruct")

    def bound(
        self,
        pictures: Any,
        *,
        samples: int = 1,
        prior_levels: Any = (),
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """The evidence lower bound of pictures, in nats per picture."""
        raise self._cannot("bound")

    def score(
        self,
        pictures: Any,
        *,
        samples: int = 16,
        prior_levels: Any = (),
        seed: int = 0,
        noise: Any = None,
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """Likelihood scores of each picture, with an importance-weighted bound of many samples."""
        raise self._cannot("score")

    def interpolate(self, a: Any, b: Any, n: int = 8, *, seed: int = 0, **options: Any) -> Array:
        """Pictures between a and b in latent space, both ends included."""
        raise self._cannot("interpolate")

    def traverse(self, pictures: Any, variates: Any = None, n: int = 7, **options: Any) -> Array:
        """Pictures with single latents changed, one after the other."""
        raise self._cannot("traverse")

    def mix(self, a: Any, b: Any, cuts: Any = None, *, seed: int = 0, **options: Any) -> Array:
        """Pictures with the coarse latents of a and the fine ones of b."""
        raise self._cannot("mix")

    def classify(self, pictures: Any, *, batch_size: int = BATCH_SIZE) -> Array:
        """The most likely class of each picture, int32 (N,)."""
        raise self._cannot("classify")

    def compress(self, pictures: Any, *, seed: int = 0, batch_size: int = BATCH_SIZE) -> bytes:
        """Pictures as bytes, without loss."""
        raise self._cannot("compress")

    def decompress(self, data: bytes) -> Array:
        """The pictures that were compressed."""
        raise self._cannot("decompress")

    def detect(
        self,
        known: Any,
        foreign: Any,
        *,
        validation: Any = None,
        k: int | None = None,
        samples: int = 4,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
    ) -> Any:
        """How well the model tells foreign pictures from known ones."""
        raise self._cannot("detect")

    # Saving and moving.

    def save(self, folder: Path | str) -> None:
        """Write `config.json` and `model.safetensors`, the tokenizer in `tokenizer/`, and the text encoder in
        `text_encoder/`.

        A discriminator and buffers are left out, and adapters are merged. `load` of either twin opens the
        folder; a tokenizer's also serves as `data.tokenizer_path`.
        """
        folder = read_path(folder, "save takes a folder")
        self._check_free(folder)
        same = self._origin if self._origin and self._hash() == self._fingerprint else None
        weights = without_discriminator(self._whole_weights())
        write_folder(folder, self.hparams, weights, origin=same, calls=self.call_options)
        if self._tokenizer is not None:
            self._tokenizer.save(folder / TOKENIZER)

    def to(self, device: Any = None, dtype: Any = None) -> Self:
        """Move the model and its tokenizer to a device, or change its precision, in place.

        `dtype` is 'float32', 'bfloat16' or 'float64', or the framework's dtype. A tokenizer
        computes in at least float32. This replaces `module`: make an optimiser afterwards.
        """
        hparams = self.hparams
        if dtype is not None:
            precision = precision_of(dtype)
            hparams = replace(hparams, train=replace(hparams.train, precision=precision))
        device = self.device if device is None else device
        weights = self._network.weights()
        self._network = type(self._network)(hparams, weights, device, self._network.buffers)
        if self._tokenizer is not None:
            coarse = dtype is not None and precision_of(dtype) == "bfloat16"
            self._tokenizer.to(device, None if coarse else dtype)
        return self

    # For families.

    def read_with(self, source: TextSource) -> None:
        """Use this text encoder for prompts; a `UserError` if the model reads no text."""
        raise UserError(f"this model of family '{self.family}' reads no text: leave text_encoder out")

    @classmethod
    def network_options(cls, hparams: Any) -> Any:
        """Options of a trained model, without those that only training needs."""
        return hparams

    @classmethod
    def new_options(cls, hparams: Any) -> Any:
        """Options of a new model, as `loss` computes it."""
        return hparams

    @classmethod
    def parameter_shapes(cls, hparams: Any) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter of the network."""
        raise NotImplementedError

    @classmethod
    def initial_weights(cls, hparams: Any, seed: int) -> dict[str, Array]:
        """Initial values of every parameter."""
        raise NotImplementedError

    @classmethod
    def buffers_of(cls, hparams: Any, weights: Mapping[str, Array]) -> dict[str, Array]:
        """Buffers for trained weights."""
        del hparams, weights
        return {}

    @classmethod
    def usual(cls, given: Values) -> Values:
        """Default options of a new model in addition to those of the schema and `face.usual.SHARED`; `given`
        holds the caller's options and the shared ones."""
        del given
        return {}

    @classmethod
    def needs_tokenizer(cls, hparams: Any) -> bool:
        """Whether pictures need a separate tokenizer."""
        del hparams
        return False

    def _run(
        self,
        method: str,
        rows: Mapping[str, Array],
        *,
        noise: Any,
        seed: int,
        batch_size: int,
        repeat: int = 0,
        **arguments: Any,
    ) -> dict[str, Array]:
        """Run a method on rows, `batch_size` at once; repeated rows fill the last batch. A different `repeat`
        gives different noise from the same seed."""
        n, size = len(next(iter(rows.values()))), read_count(batch_size, "batch_size")
        seed = read_seed(seed)
        specs = () if noise is None else self._noise_specs(method, n, **split_arguments(arguments)[0])
        given = None if noise is None else checked_noise(noise, specs)
        made: list[dict[str, Array]] = []
        for step, first in enumerate(range(0, n, size)):
            if self.on_batch is not None:
                self.on_batch(first, n)
            chosen = (first + np.arange(size if n > size else n)) % n
            chosen[n - first :] = chosen[0]
            made.append(
                self._network.run(
                    method,
                    {name: array[chosen] for name, array in rows.items()},
                    seed=seed,
                    step=repeat * 2**16 + step,
                    noise=None if given is None else {name: array[chosen] for name, array in given.items()},
                    **arguments,
                )
            )
        return {name: np.concatenate([rows[name] for rows in made])[:n] for name in made[0]}

    def _check_free(self, folder: Path) -> None:
        """Raise a `UserError` if a folder holds what `load` would take for this model, or for its
        tokenizer."""
        if any(folder.glob("hparams-*.cfg")):
            raise UserError(f"{folder} is the folder of a run: save the model elsewhere")
        if (folder / INDEX).exists() or ((folder / CONFIG).exists() and not is_folder(folder)):
            raise UserError(f"{folder} holds a published model: save this one elsewhere")
        if self._tokenizer is None and (folder / TOKENIZER).exists():
            raise UserError(f"{folder} holds the tokenizer of another model: save elsewhere, or remove it")

    def _hash(self) -> str:
        """A hash of the weights."""
        digest = sha256()
        for name, array in sorted(self._network.weights().items()):
            digest.update(name.encode() + array.tobytes())
        return digest.hexdigest()

    def _no_options(self, call: str, options: Mapping[str, Any]) -> None:
        check_names(options, (), f"{call}: option")

    def _cannot(self, method: str) -> UserError:
        return UserError(f"a model of family '{self.family}' cannot {method}: it can {', '.join(self.does)}")


def face_of(family: str) -> type[Model]:
    """The class of a family's models: `FACE` of `dioscuri/families/<family>/face.py`."""
    face: type[Model] = family_module(family, "face").FACE
    return face


def open_network(
    twin: str,
    hparams: Any,
    weights: Mapping[str, Array],
    device: Any = None,
    buffers: Mapping[str, Array] | None = None,
) -> Network:
    """The network of a twin."""
    state = random.getstate()
    module: Any = import_module(f"{twin}_impl.inference")
    random.setstate(state)  # importing flax draws from it
    network: Network = module.Network(hparams, weights, device, buffers)
    return network
