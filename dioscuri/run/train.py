"""The training loop: batches to the engine, numbers to the logs, checkpoints to disk."""

import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import store
from dioscuri.checkpoint.adapter_files import write_adapter_of_run
from dioscuri.checkpoint.base_model import base_of
from dioscuri.checkpoint.makers import made_by
from dioscuri.context import Context, Work
from dioscuri.contract import FamilyRun, check_examples, family_of, family_run
from dioscuri.data import pipeline
from dioscuri.data.classes import write_classes
from dioscuri.engine import State, check_batch
from dioscuri.errors import UserError
from dioscuri.files import write_json
from dioscuri.hparams.archive import to_json
from dioscuri.hparams.sections import Train
from dioscuri.outputs.progress import Progress
from dioscuri.outputs.reports import write_report
from dioscuri.outputs.settings import SETTINGS, machine, origin
from dioscuri.plans.mesh import check_mesh, mesh_of
from dioscuri.restore import Start, is_due, load_best, restore
from dioscuri.run.clock import Clock
from dioscuri.run.logs import JsonLines, Log, Sheets, Sink, WandB, check_wandb
from dioscuri.run.sizes import memory_line, size_line, sizes
from dioscuri.run.stabilizer import Stabilizer
from dioscuri.run.stopping import REQUEST, TIME, Stop
from dioscuri.run.tensorboard import TensorBoard
from dioscuri.versions import versions


def train(context: Context, *, resume_from: Path | None = None) -> None:
    """Train a run to its end or until SIGTERM or SIGINT, and report.

    An interrupted run continues from its newest checkpoint; a finished one only reports.
    """
    prepare_training(context, resume_from=resume_from)()


def prepare_training(context: Context, *, resume_from: Path | None = None) -> Work:
    """Open pictures and restore the state, or raise a `UserError`; returns the remaining work."""
    if context.hparams.run.wandb:
        check_wandb()
    # Open all splits now, to report any error before the first step.
    for pictures in (context.sets.train, context.sets.validation, context.sets.test):
        for note in pictures.notes:
            context.say(f"{pictures.name}: {note}")
    check_examples(context)
    _check_devices(context)
    family = family_run(context)
    start = restore(context, resume_from)
    options = context.hparams.train
    if context.writes and context.sets.train.classes:
        write_classes(context.directory.path, context.sets.train.classes)

    def work() -> None:
        context.say(size_line(sizes(context.engine.state_to_numpy(everywhere=False), family.facts())))
        if context.engine.device_count > 1:
            context.say(memory_line(context.engine, context.hparams.train.shard))
        finished = start.at_end(options)
        if finished:
            context.say(_end(start, options))
        pending = start.lacks_validation(options)
        training = _Training(context, family, start) if pending or not finished else None
        if training is None or training.run():
            if training is not None and training.best is None:
                raise UserError(
                    f"no validation of the run '{context.hparams.run.name}' was finite, so there is no best "
                    "checkpoint and no report: start another run with a lower optimizer.learning_rate"
                )
            _report(context, family)

    return work


def _end(start: Start, options: Train) -> str:
    """Why a run has finished, and what to do to continue it."""
    if start.step >= options.total_train_steps:
        total = options.total_train_steps
        return f"this run has trained for its {total} batches: raise train.total_train_steps to continue"
    limit = f"{options.time_limit_in_seconds:g} seconds ({options.time_limit_clock})"
    return f"this run has trained for its {limit}: raise train.time_limit_in_seconds to continue"


def _check_devices(context: Context) -> None:
    """Raise a `UserError` if the devices cannot train the run as its options say."""
    train, devices = context.hparams.train, context.engine.device_count
    check_batch(train.batch_size, devices, train.accumulation_steps)
    if train.shard != "none" and devices == 1:
        raise UserError(
            f"[train] shard is '{train.shard}', but there is one device, which shares with none: set "
            "train.shard=none, or train on several devices"
        )
    check_mesh(mesh_of(train, devices), family_of(context.hparams).network_shapes(context.hparams).values())
    if train.shard != "none" and train.compile and context.engine.name == "torch":
        raise UserError(
            f"[train] compile is True, but PyTorch does not compile a network that train.shard={train.shard} "
            "spreads: set one of them to its default"
        )


def _report(context: Context, family: FamilyRun) -> None:
    """Report on the best checkpoint, with `settings.json` next to the numbers."""
    checkpoint = load_best(context, averaged=True)
    is_best = checkpoint.info["best_step"] == checkpoint.step
    which = "best validation" if is_best else "the newest: no validation was finite"
    context.say(f"checkpoint of step {checkpoint.step} ({which}), averaged weights:")
    if context.writes:
        settings = {"mode": "report", "split": "test", **origin(context, checkpoint, averaged=True)}
        write_json(context.directory.path / SETTINGS, settings | {"options": to_json(context.hparams)})
    results = {"step": checkpoint.step, **family.report()}
    size = sizes(checkpoint.state, family.facts())
    if context.writes:
        write_adapter_of_run(context.directory.path, context.hparams, checkpoint)
    memory = {"devices": context.engine.device_count, **context.engine.memory()}
    write_report(context, context.directory.path, results | {"size": size, "memory": memory})


class _Training:
    """A run from `start` to the end, as one process sees it."""

    def __init__(self, context: Context, family: FamilyRun, start: Start) -> None:
        self.context, self.family, self.engine = context, family, context.engine
        self.hparams = context.hparams
        self.start = start.step
        total = self.hparams.train.total_train_steps
        self.end = start.step if start.at_end(self.hparams.train) else total
        self.pending = start.lacks_validation(self.hparams.train)
        self.validated: int | None = start.info.get("validated")
        self.best = start.best if start.best and math.isfinite(start.best["score"]) else None
        self.pending_log: tuple[int, dict[str, float]] | None = None
        self.compiled: set[Hashable] = set()
        self.metrics: Mapping[str, float] = start.info.get("metrics", {})
        self.clock = Clock(self.hparams.train, start.info)
        self.tokenizer, self.base = made_by(self.hparams, context.sets.train), base_of(self.hparams)
        self.stop = Stop(context.engine, context.directory.path, self.clock.out_of_time)
        self.stabilizer = Stabilizer(context.engine, self.hparams.train, start.step, context.say)
        self.batches = _batches(context, start)
        self.log = Log(_sinks(context, start.step) if context.writes else [])

    def run(self) -> bool:
        """Returns True at the end of the run, False if it was asked to stop."""
        total = self.hparams.train.total_train_steps
        progress = Progress("training", total, start=self.start, shown=self.context.writes)
        self.clock.start()
        try:
            with self.stop.listening():
                if self.pending and not self._validate_and_save(self.start, progress):
                    return False
                for index in range(self.start, self.end):
                    if reason := self._step(index, progress):
                        return reason == TIME
                return True
        finally:
            self._log_pending()
            progress.close()
            self.log.close()
            self.batches.close()

    def _step(self, index: int, progress: Progress) -> str:
        """Returns why the training ends here, or ''."""
        done = index + 1
        options = self.hparams.train
        due = is_due(done, options)
        fetches = due or done % options.logging_interval_in_steps == 0 or self.stabilizer.fetches(done)
        if fetches:
            self.stop.announce(done)
        batch, scalars = next(self.batches), self.family.scalars(index)
        what = "the first step" if index == self.start else f"step {done}, which differs from those before"
        self._announce(what, self.engine.program(batch, scalars), progress)
        self.engine.train_step(batch, index, scalars)
        if fetches:
            self._fetch(done)
            progress.note(self.family.headline(self.metrics))
        progress.advance()
        reason = self.stop.after(done, fetched=fetches)
        if reason == REQUEST:
            self._leave(done, fetched=fetches, progress=progress)
        elif due or reason == TIME:
            completed = self._validate_and_save(done, progress)
            reason = reason if completed else REQUEST
        else:
            self._log_pending()
        return reason

    def _validate_and_save(self, done: int, progress: Progress) -> bool:
        """Returns whether the run continues. The next start repeats a validation that was interrupted."""
        try:
            self._announce("the first validation", "validation", progress)
            self._validate(done, progress)
        except _AbandonedError:
            return self._leave(done, fetched=True, progress=progress)
        self.validated = done
        self._save(done)
        self.clock.start()
        return True

    def _announce(self, what: str, program: Hashable, progress: Progress) -> None:
        """Say what is compiled next, once for each program."""
        if self.engine.compiles and program not in self.compiled:
            self.compiled.add(program)
            progress.say(
                f"compiling {what}: seconds for a small network, minutes for a large one; a request to stop "
                "waits for it"
            )

    def _fetch(self, done: int) -> None:
        self.metrics = self.engine.fetch_metrics()
        if self.context.writes:
            self.context.directory.check_held()
        if self.context.on_metrics:
            self.context.on_metrics(done, dict(self.metrics))
        self.clock.read()
        self.pending_log = done, {**self.family.logged(self.metrics, done), **self.clock.logged()}
        if self.stabilizer.after(done, self.metrics):
            return
        options = self.hparams.optimizer
        in_row = int(self.metrics["skips_in_row"])
        if in_row >= options.max_skips_in_row:
            raise UserError(
                f"step {done}: {in_row} updates in a row were skipped, their gradient norms not finite or at "
                f"least {options.gradient_skip_threshold:g}: lower optimizer.learning_rate or raise "
                "optimizer.gradient_skip_threshold; the run then continues from its newest checkpoint"
            )
        if not options.gradient_skip and not math.isfinite(self.metrics["grad_norm"]):
            raise UserError(
                f"step {done}: the gradient is not finite: set optimizer.gradient_skip=True or lower "
                "optimizer.learning_rate; the run then continues from its newest checkpoint"
            )

    def _log_pending(self) -> None:
        """Log the buffered numbers of a step; with a validation they wait for its numbers."""
        if self.pending_log:
            self.log.scalars("train", *self.pending_log)
        self.pending_log = None

    def _validate(self, done: int, progress: Progress) -> None:
        def on_batch() -> None:
            if self.stop.alone and self.stop.requested:
                raise _AbandonedError

        validation = self.family.validate(done, on_batch)
        shown = self.family.show(done)
        _, numbers = self.pending_log or (done, {})
        self.pending_log = done, {**numbers, **shown.scalars}
        self._log_pending()
        for split, shown_pictures in (("val", validation), ("train", shown)):
            self.log.histograms(split, done, shown_pictures.histograms)
            self.log.images(split, done, shown_pictures.images)
        self.log.scalars("val", done, validation.scalars)
        least = self.best["score"] if self.best else math.inf
        better = math.isfinite(validation.score) and validation.score < least
        if better:
            self.best = {"step": done, "score": validation.score}
        remark = ", the best so far" if better else ""
        if not math.isfinite(validation.score):
            remark = ": this is not finite and cannot be the best"
        progress.say(f"step {done}: {validation.headline}{remark}")

    def _save(self, done: int) -> None:
        """Process 0 writes; the others wait, since they may read the file."""
        state = self.engine.state_to_numpy(everywhere=False)
        if self.context.writes:
            self.context.directory.check_held()
            self._write(done, state)
        self.engine.barrier()

    def _write(self, done: int, state: State) -> None:
        info = {
            "data": self.batches.state(),
            "random": {"seed": self.hparams.run.seed, "step": done},
            "hparams": to_json(self.hparams),
            "versions": versions(),
            "twin": self.engine.name,
            "tokenizer": self.tokenizer,
            "base": self.base,
            "classes": list(self.context.sets.train.classes),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "best": self.best,
            "validated": self.validated,
            **self.clock.info(),
        }
        best = int(self.best["step"]) if self.best else None
        keep = self.hparams.run.max_allowed_checkpoints
        store.save(self.context.directory.checkpoints, done, state, info, keep=keep, best=best)

    def _leave(self, done: int, *, fetched: bool, progress: Progress) -> bool:
        if not fetched:
            self._fetch(done)
        self._save(done)
        progress.say(f"asked to stop: saved after step {done}; the same command continues from there")
        return False


class _AbandonedError(Exception):
    """A validation was interrupted by a request to stop."""


def _batches(context: Context, start: Start) -> Any:
    """This process's training batches, continued from the checkpoint."""
    engine, options = context.engine, context.hparams.train
    return pipeline.training_batches(
        context.sets.train,
        context.hparams,
        batch_size=options.batch_size,
        process_index=engine.process_index,
        process_count=engine.process_count,
        state=start.info.get("data"),
    )


def _sinks(context: Context, step: int) -> list[Sink]:
    run, folder = context.hparams.run, context.directory
    settings = {"mode": "training", **machine(context), "options": to_json(context.hparams)}
    sinks: list[Sink] = [
        JsonLines(folder.metrics, step=step),
        TensorBoard(folder.path, step=step),
        Sheets(folder.path / "validation-images", settings),
    ]
    if run.wandb:
        sinks.append(WandB(run.wandb_project, run.name, to_json(context.hparams), folder.path))
    return sinks
