"""Models that compress pictures without loss: the part of the Python interface."""

import platform
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO

import numpy as np

from dioscuri.compression.archive import Batches, Reader, Writer, check_start, checksum
from dioscuri.compression.latents import MAX_BITS
from dioscuri.compression.rans import Inconsistent
from dioscuri.compression.words import Exhausted
from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of
from dioscuri.face.model import BATCH_SIZE
from dioscuri.face.network import Network
from dioscuri.families.latent_models.bits_back import BitsBack, Pixels, Run, choose_bits
from dioscuri.families.latent_models.exploring import ExplorableModel
from dioscuri.inputs import read_count, read_flag, read_seed
from dioscuri.versions import versions

OF_LEVELS = ("compress", "decompress", "detect")
"""Methods that need a likelihood of the levels of pictures."""
SIZES = (1, 4, 16, 64, 256)
"""Sizes of batches. Every picture of a batch borrows bits at once, so larger ones wait until the message is
long enough to lend them."""
LANES = 16
"""Of the coder, per picture of a batch."""
CALIBRATION = 32
"""Pictures, the first ones, that decide how finely latents are resolved."""
_THREADS = {"torch": "set OMP_NUM_THREADS={}", "jax": "give this process {} processors, as with taskset"}
_LIBRARIES = {"torch": ("torch",), "jax": ("jax", "jaxlib", "flax")}


class CompressingModel(ExplorableModel):
    """A VAE whose likelihood is one of levels: it also has `compress` and `decompress`."""

    does: tuple[str, ...] = (*ExplorableModel.does, "compress", "decompress")

    def __init__(self, network: Network, **given: Any) -> None:
        super().__init__(network, **given)
        if self._obstacle():
            self.does = tuple(name for name in self.does if name not in OF_LEVELS)

    def compress(
        self, pictures: Any, *, seed: int = 0, batch_size: int = BATCH_SIZE, check: bool = True
    ) -> bytes:
        """The pictures without loss, about `bound(pictures).bits_per_dim` bits per value.

        The network takes up to `batch_size` pictures at once. `check` decompresses the result, which takes as
        long again. Raises a `UserError` for pictures with values that the model does not know, such as grey
        ones for a model of black and white.
        """
        file = BytesIO()
        check = read_flag(check, "check")
        self.compress_into(file, [pictures], seed=seed, batch_size=batch_size, check=check)
        return file.getvalue()

    def decompress(self, data: bytes) -> Array:
        """The pictures uint8 (N, H, W, C) that `compress` was given.

        Only the same weights, twin, versions, kind of device and number of threads compute the same numbers:
        otherwise, and if the data are damaged, a `UserError` says what differs.
        """
        if not isinstance(data, bytes | bytearray | memoryview):
            raise UserError(f"data must be the bytes that compress returned, not {kind_of(data)}")
        made = [*self.decompress_from(BytesIO(data), "the data")]
        return np.concatenate([pictures for _, pictures in reversed(made)])

    def compress_into(
        self,
        file: BinaryIO,
        chunks: Iterable[Any],
        *,
        seed: int = 0,
        batch_size: int = BATCH_SIZE,
        check: bool = True,
        where: str = "",
    ) -> dict[str, int]:
        """Compress any number of pictures, in `chunks` as `compress` takes them, into an empty file that is
        open for reading and writing.

        Returns the number of `pictures`, the file's `bytes`, those of them that are `overhead`, and
        `initial`, the bits that the code borrowed. `where` is stored: what the model was loaded from.
        """
        largest, seed = read_count(batch_size, "batch_size"), read_seed(seed)
        pixels = self._pixels()
        queue = _Queue(self._exact(chunks, pixels))
        queue.fill(CALIBRATION)
        run = self._steps()
        bits = choose_bits(run, self.plan, pixels, queue.rows[:CALIBRATION], seed)
        codec = BitsBack(run, self.plan, pixels, bits)
        header = {**self._identity(), "bits": bits, "seed": seed, "where": where}
        writer = Writer(file, {**header, "processor": _processor()}, seed)
        need = codec.picture_bits + 32 * LANES
        while size := _batch_size(queue, 32 * len(writer.words) // need, largest):
            _reserve(writer, size)
            pictures = queue.take(size)
            codec.encode(writer.coder, pictures)
            writer.batches.add(pictures)
        sizes = {"pictures": writer.batches.pictures, **writer.finish()}
        if check:
            file.seek(0)
            for _ in self.decompress_from(file, "the result"):
                pass
        return sizes

    def decompress_from(self, file: BinaryIO, name: str) -> Iterator[tuple[int, Array]]:
        """Batches of pictures and the number of the first, from the last batch to the first. Only at the end
        is it certain that all are right."""
        reader = Reader(file, name)
        coder, codec = reader.coder, BitsBack(self._steps(), self.plan, self._pixels(), self._bits(reader))
        first, total = reader.batches.pictures, 0
        try:
            for size, lanes in _backwards(reader.batches):
                coder.resize(lanes)
                pictures = codec.decode(coder, size)
                first -= size
                total += checksum(pictures, first)
                yield first, pictures
            coder.resize(0)
            check_start(coder, reader.header["seed"], reader.borrowed)
            if total % 2**64 != reader.checksum:
                raise Inconsistent
        except (Inconsistent, Exhausted, UserError) as error:
            raise UserError(
                f"{name} decompresses to other pictures than were compressed, so nothing is returned: this "
                f"machine ({_processor()}) rounds otherwise than the one that compressed "
                f"({reader.header['processor']})"
            ) from error

    def _steps(self) -> Run:
        """The modes of the network, with its weights as they are now."""
        return self._network.caller()

    def _obstacle(self) -> str:
        """Why the model has no likelihood of the levels of pictures, or an empty text."""
        plan = self.plan
        if plan.likelihood == "absolute":
            return "its output layer gives absolute errors, which are no likelihood"
        if len(plan.extent) != 2 or self.hparams.data.depth != 8:
            return "it is a model of sounds or clips"
        if plan.num_classes and not self.hparams.loss.cond_dropout_prob:
            return "it needs the class of every picture: train with loss.cond_dropout_prob above 0"
        return ""

    def _pixels(self, call: str = "compress") -> Pixels:
        """A `UserError`, which names the call, if the model has no likelihood of the levels of pictures."""
        if obstacle := self._obstacle():
            raise UserError(f"model '{self.hparams.run.name}' cannot {call}: {obstacle}")
        return Pixels.of(self.plan, self.hparams.data)

    def _exact(self, chunks: Iterable[Any], pixels: Pixels) -> Iterator[Array]:
        """Checked pictures."""
        first = 0
        for chunk in chunks:
            pictures = self._pictures(chunk)
            pixels.check(pictures, first)
            first += len(pictures)
            yield pictures

    def _identity(self) -> dict[str, Any]:
        """What must be the same to decompress."""
        hparams = self.hparams
        loss = hparams.loss
        options = (hparams.model, hparams.data.num_bits, loss.min_mol_logscale, loss.legacy_mol_log_scale)
        model = sha256((self._hash() + repr(options)).encode()).hexdigest()[:32]
        known = versions()
        names = ("python", "dioscuri", "numpy", "scipy", *_LIBRARIES[self.twin])
        return {
            "family": self.family,
            "model": model,
            "twin": self.twin,
            "precision": hparams.train.precision,
            "versions": {name: known[name] for name in names},
            **self._network.machine(),
        }

    def _bits(self, reader: Reader) -> list[list[int]]:
        """Bits of the variates that a file was compressed with; a `UserError` if it is not for this model, or
        its header is none."""
        try:
            self._check_identity(reader)
            bits, processor, seed = (reader.header[name] for name in ("bits", "processor", "seed"))
            variates = [block.variates for block in self.plan.groups]
            known = [len(group) for group in bits] == variates
            known = known and all(type(n) is int and 0 < n <= MAX_BITS for group in bits for n in group)
        except (KeyError, TypeError, AttributeError) as error:
            raise reader.damaged() from error
        if not known or type(seed) is not int or not isinstance(processor, str):
            raise reader.damaged()
        chosen: list[list[int]] = bits
        return chosen

    def _check_identity(self, reader: Reader) -> None:
        here, there, name = self._identity(), reader.header, reader.name
        if (here["family"], here["model"]) != (there["family"], there["model"]):
            raise UserError(
                f"{name} was compressed with another model ({there['family']}, {there['model'][:8]}; this is "
                f"{here['family']}, {here['model'][:8]}): give the one that compressed it"
            )
        facts = [(what, there[what], here[what]) for what in ("twin", "precision", "device", "threads")]
        libraries = [
            (what, version, here["versions"].get(what)) for what, version in there["versions"].items()
        ]
        for what, before, now in (*facts, *libraries):
            if before != now:
                hint = {
                    "threads": f": {_THREADS[self.twin].format(before)}",
                    "twin": f": open the model with dioscuri.{before}",
                }.get(what, "")
                raise UserError(f"{name} was compressed with {what} {before}, but here it is {now}{hint}")


class _Queue:
    """Pictures that wait to be compressed."""

    def __init__(self, chunks: Iterator[Array]) -> None:
        self.chunks, first = chunks, next(chunks, None)
        if first is None:
            raise UserError("there are no pictures to compress")
        self.rows: Array = first

    def fill(self, n: int) -> int:
        """Read until there are n pictures, or no more; how many there are, n at most."""
        while len(self.rows) < n and (chunk := next(self.chunks, None)) is not None:
            self.rows = np.concatenate([self.rows, chunk])
        return min(n, len(self.rows))

    def take(self, n: int) -> Array:
        """The next n pictures."""
        taken, self.rows = self.rows[:n], self.rows[n:]
        return taken


def _batch_size(queue: _Queue, affordable: int, largest: int) -> int:
    """The largest size of `SIZES` that is allowed, affordable and there; 0 at the end."""
    ready = queue.fill(min(max(affordable, 1), largest))
    return max((size for size in SIZES if size <= ready), default=0)


def _reserve(writer: Writer, size: int) -> None:
    """Enough lanes for a batch of this size; lanes never get fewer."""
    writer.coder.resize(max(LANES * size, len(writer.coder.heads)))


def _backwards(batches: Batches) -> Iterator[tuple[int, int]]:
    """Sizes of batches from the last to the first, and the lanes that each was compressed with."""
    lanes: Sequence[int] = [LANES * size for size in accumulate((size for size, _ in batches.runs), max)]
    for (size, n), most in zip(reversed(batches.runs), reversed(lanes), strict=True):
        for _ in range(n):
            yield size, most


def _processor() -> str:
    """The kind of processor, for messages."""
    try:
        with open("/proc/cpuinfo") as file:  # noqa: PTH123 - the same
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
