"""The rows of the benchmark that a card is measured by, the most telling ones first."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dioscuri.checkpoint.pretrained import write_folder
from dioscuri.contract import family_of
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import tables as tokenizer_tables
from dioscuri.hparams import load
from dioscuri.places import examples
from dioscuri.plans.parameters import initial_values
from tools.gpu.session import Session

_TOKENS = ("data.tokenizer_path=", "data.dataset_source=tokens")
_LEAST_SECONDS = 20
"""A row is not begun with less time."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A call of the benchmark. `small` is the configuration of a rehearsal, `tokenizer` that of an untrained
    tokenizer which decodes the tokens, `seconds` the most that the row may take."""

    name: str
    cfg: str
    small: str
    backend: str
    batch: int
    what: str = "train"
    words: tuple[str, ...] = ()
    compiled: bool = False
    tokenizer: str = ""
    steps: int = 30
    seconds: int = 90


def _twins(name: str, *, compiled: bool = False, **fields: Any) -> Iterator[Row]:
    """The row eager, in JAX and, if it is to be, compiled, which takes longest."""
    yield Row(name=f"{name}, PyTorch", backend="torch", **fields)
    yield Row(name=f"{name}, JAX", backend="jax", **fields)
    if compiled:
        yield Row(name=f"{name}, PyTorch compiled", backend="torch", compiled=True, **fields)


_VAE: dict[str, Any] = {"cfg": "hierarchical_vae/cifar10_C1.cfg", "small": "hierarchical_vae/digits.cfg"}
_UVIT: dict[str, Any] = {
    "cfg": "maskgit/amused256.cfg",
    "small": "maskgit/digits.cfg",
    "what": "generate",
    "words": ("data.null_text_path=''",),
    "tokenizer": "vqgan/laion256_openmuse.cfg",
    "steps": 10,
}
_SUNDAE: dict[str, Any] = {
    "cfg": "sundae/ffhq1024_2102_4.cfg",
    "small": "sundae/digits.cfg",
    "what": "generate",
    "words": ("train.precision=bfloat16",),
    "tokenizer": "vqgan/ffhq1024_taming.cfg",
    "steps": 3,
}
_MASKGIT: dict[str, Any] = {"cfg": "maskgit/imagenet256_maskgit.cfg", "small": "maskgit/digits.cfg"}

ROWS = (
    *_twins("hierarchical VAE C1, training step, batch 32", batch=32, compiled=True, **_VAE),
    *_twins("U-ViT 256x256, 12 steps, batch 1", batch=1, **_UVIT),
    *_twins("SUNDAE, one sample of 1024x1024", batch=1, **_SUNDAE),
    *_twins("MaskGIT, training step in bfloat16, batch 64", batch=64, compiled=True, **_MASKGIT),
    *_twins("U-ViT 256x256, 12 steps, batch 8", batch=8, **_UVIT),
    *_twins("hierarchical VAE C1, training step, batch 128", batch=128, compiled=True, **_VAE),
)


def measure_rows(session: Session, until: float, pattern: str = "") -> None:
    """Measure the rows whose name contains the pattern, until their time is up."""
    records = session.results.setdefault("rows", [])
    rehearsed: list[list[str]] = []
    for row in (row for row in ROWS if pattern.lower() in row.name.lower()):
        if session.rehearse and (words := words_of(session, row)) in rehearsed:
            continue  # it differs from an earlier row by its size or compilation alone
        if session.rehearse:
            rehearsed.append(words)
        if session.left(until) < (1 if session.rehearse else _LEAST_SECONDS):
            records.append({"row": row.name, "status": "skipped: the time of the rows was up"})
        else:
            records.append(_measure(session, row, session.left(until)))
        session.write()


def _measure(session: Session, row: Row, seconds: float) -> dict[str, Any]:
    seconds = seconds if session.rehearse else min(seconds, row.seconds)
    program = session.run(row.name, words_of(session, row), seconds)
    numbers: dict[str, Any] = next(iter(program.records()), {})
    if numbers:
        numbers["product_tflops"] = round(numbers["product_gflops"] / 1e3, 1)
    return {"row": row.name} | numbers | program.outcome()


def words_of(session: Session, row: Row) -> list[str]:
    """The command line of a row: small and on the CPU in a rehearsal."""
    small = session.rehearse
    cfg = examples() / (row.small if small else row.cfg)
    words = ["tools/benchmark.py", "--cfg", str(cfg), "--backend", row.backend, "--what", row.what]
    words += [
        "--batch",
        str(2 if small else row.batch),
        "--steps",
        str(1 if small else row.steps),
    ]
    if row.compiled and not small:
        words.append("--compile")
    if small:
        words += ["run.num_gpus=0", *(_TOKENS if "maskgit" in row.small else [])]
        words += ["train.precision=float32"]
        return [*words, *(["synthesis.steps=2"] if row.what == "generate" else [])]
    words += ["run.num_gpus=1", *row.words]
    if row.tokenizer:
        words.append(f"data.tokenizer_path={_tokenizer(session, row.tokenizer)}")
    elif "maskgit" in row.cfg:
        words += _TOKENS
    return words


def _tokenizer(session: Session, name: str) -> Path:
    """A saved tokenizer with initial weights, made once."""
    folder = session.work / Path(name).stem
    if not folder.is_dir():
        hparams = load(examples() / name)
        table = tokenizer_tables.parameter_table(tokenizers.plan_of(hparams))
        write_folder(folder, family_of(hparams).network_options(hparams), initial_values(table, 0))
    return folder
