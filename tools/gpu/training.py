"""The runs of a check: digits in both twins, and a tokenizer with MaskGIT on CIFAR-10's pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dioscuri.places import examples
from tools.gpu.pictures import write_cifar, write_mnist
from tools.gpu.session import Program, Session

_TWINS = ("torch", "jax")
_MOST_STEPS = 12_000
_BATCH = {"mnist10k": 128, "tokenizer": 256, "MaskGIT": 256}
_START = 30
"""Seconds of a run beside its steps: its start, compilation, validations and the report."""
_MARGIN = 0.75
"""Share of the time that steps may take by the pilot's speed."""


def train_digits(session: Session, data: Path, until: float) -> None:
    """Train `mnist10k.cfg` in both twins at once, as many steps in each as the slower one has time for."""
    result = session.results["mnist10k"] = {}
    write_mnist(data, session.work / "datasets")
    cfg = examples() / "hierarchical_vae" / "mnist10k.cfg"
    size = _size(session, "mnist10k")
    pilots = _pilots(session, {twin: (cfg, twin, size) for twin in _TWINS}, session.left(until) / 3)
    result["pilot, ms"] = pilots
    steps = _steps(session, pilots, session.left(until) - _START)
    result["steps"] = steps
    words = [*_schedule(steps), *size, f"loss.vae_beta_anneal_steps={max(1, min(1000, steps // 4))}"]
    programs = {
        twin: session.start(f"mnist10k, {twin}", _training(session, twin, cfg, words)) for twin in _TWINS
    }
    for twin, program in programs.items():
        program.finish(session.left(until))
        result[twin] = _report(session, twin, "mnist10k", program)
        session.write()
    bounds = [result[twin].get("negative_elbo") for twin in _TWINS]
    if all(bound is not None for bound in bounds):
        result["difference of the twins"] = abs(bounds[0] - bounds[1])


def train_tokens(session: Session, data: Path, until: float) -> None:
    """Train the tokenizer of `vqgan/cifar10.cfg` and MaskGIT on its tokens in bfloat16, and write both and a
    sheet."""
    result = session.results["cifar10"] = {}
    write_cifar(data, session.work / "datasets")
    of_tokenizer = examples() / "vqgan" / "cifar10.cfg", "torch", _tokenizer_words(session)
    of_model = examples() / "maskgit" / "mnist10k.cfg", "torch", _maskgit_words(session)
    without = (*of_model[:2], [*of_model[2], "data.tokenizer_path=", "data.dataset_source=tokens"])
    pilots = _pilots(session, {"tokenizer": of_tokenizer, "MaskGIT": without}, session.left(until) / 4)
    result["pilot, ms"] = pilots
    ends = session.left(until) * 0.5, session.left(until) * 0.85
    start = session.left(until)
    for (name, (cfg, twin, words)), end in zip(
        {"tokenizer": of_tokenizer, "MaskGIT": of_model}.items(), ends, strict=True
    ):
        seconds = end - (start - session.left(until))
        own = {key: ms for key, ms in pilots.items() if key == name}
        steps = _steps(session, own, seconds - _START)
        schedule = [*_schedule(steps), *words]
        if name == "tokenizer":
            schedule.append(f"loss.disc_start={max(1, 6 * steps // 10)}")
        program = session.run(f"cifar10, {name}", _training(session, twin, cfg, schedule), seconds)
        result[name] = {"steps": steps} | _report(session, twin, f"cifar10_{name}".lower(), program)
        session.write()
    run = _root(session, "torch") / "logs-cifar10_maskgit"
    words = ["tools/gpu/samples.py", str(run), str(session.out)]
    program = session.run("cifar10, samples", words, session.left(until))
    result["samples"] = next(iter(program.records()), {}) | program.outcome()


def _size(session: Session, name: str) -> list[str]:
    """Device and batch."""
    gpus, batch = (0, 4) if session.rehearse else (1, _BATCH[name])
    return [f"run.num_gpus={gpus}", "run.num_cpus=8", f"train.batch_size={batch}"]


def _tokenizer_words(session: Session) -> list[str]:
    words = [*_size(session, "tokenizer"), "run.name=cifar10_tokenizer", "train.compile=False"]
    words += ["model.hidden_channels=64"]  # so that the weights fit into 16 MB
    return words + (["model.hidden_channels=32", *_SMALL] if session.rehearse else [])


def _maskgit_words(session: Session) -> list[str]:
    tokenizer = _root(session, "torch") / "logs-cifar10_tokenizer"
    words = [*_size(session, "MaskGIT"), "run.name=cifar10_maskgit", "train.precision=bfloat16"]
    words += ["data.dataset_source=cifar-10", "data.target_res=32", "data.channels=3", "data.grid=16"]
    words += ["data.codebook_size=512", f"data.tokenizer_path={tokenizer}", "val.report_samples=200"]
    words += [f"data.{split}_data_path=" for split in ("train", "val", "synthesis")]
    words += ["model.hidden_size=192", "model.num_hidden_layers=8", "model.intermediate_size=512"]
    small = ["model.hidden_size=32", "model.num_hidden_layers=1", "val.report_samples=4", *_SMALL]
    return words + (small if session.rehearse else [])


_SMALL = ("val.n_samples_for_validation=8", "val.batch_size=8", "train.precision=float32")


def _pilots(
    session: Session, runs: Mapping[str, tuple[Path, str, Sequence[str]]], seconds: float
) -> dict[str, float]:
    """Milliseconds per step of runs that are measured at once; those that gave no number are left out."""
    until = session.end - session.left() + seconds
    programs = {}
    for name, (cfg, twin, words) in runs.items():
        batch = next(word for word in words if word.startswith("train.batch_size=")).partition("=")[2]
        work = ["--cfg", str(cfg), "--backend", twin, "--batch", batch, "--flops", "1"]
        steps = "1" if session.rehearse else "30"
        programs[name] = session.start(
            f"{name}, pilot", ["tools/benchmark.py", *work, "--steps", steps, *words]
        )
    times = {}
    for name, program in programs.items():
        program.finish(session.left(until))
        for numbers in program.records():
            times[name] = numbers["ms_per_step"]
    return times


def _steps(session: Session, pilots: Mapping[str, float], seconds: float) -> int:
    """As many steps as the slowest has time for."""
    if session.rehearse:
        return 4
    slowest = max(pilots.values(), default=50.0)
    return max(100, min(_MOST_STEPS, int(_MARGIN * 1e3 * seconds / slowest)))


def _schedule(steps: int) -> list[str]:
    start = max(1, steps // 16)
    return [
        f"train.total_train_steps={steps}",
        f"optimizer.warmup_steps={start // 2}",
        f"optimizer.decay_start={start}",
        f"optimizer.decay_steps={steps - start}",
        f"train.checkpoint_and_eval_interval_in_steps={max(1, steps // 2)}",
        f"train.logging_interval_in_steps={max(1, min(50, steps // 2))}",
    ]


def _root(session: Session, twin: str) -> Path:
    return session.work / f"runs-{twin}"


def _training(session: Session, twin: str, cfg: Path, words: Sequence[str]) -> list[str]:
    places = [f"run.root={_root(session, twin)}", f"data.dataset_path={session.work / 'datasets'}"]
    return [f"{twin}_impl/train.py", str(cfg), *places, *words]


def _report(session: Session, twin: str, name: str, program: Program) -> dict[str, Any]:
    """The numbers of a run's report or, if it was stopped, of its last validation."""
    folder = _root(session, twin) / f"logs-{name}"
    outcome = program.outcome() | {"seconds": round(program.seconds, 1)}
    if (folder / "report.json").is_file():
        report = json.loads((folder / "report.json").read_text())
        return outcome | {key: value for key, value in report.items() if isinstance(value, int | float | str)}
    log = folder / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return outcome | {"last_metrics": json.loads(lines[-1]) if lines else None}
