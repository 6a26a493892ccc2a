"""Where a run continues: from its own newest checkpoint, from another run's, or from the beginning."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dioscuri.checkpoint import store
from dioscuri.checkpoint.base_model import check_base
from dioscuri.checkpoint.directory import RunDirectory
from dioscuri.checkpoint.makers import check_learnt, made_by
from dioscuri.checkpoint.trained_run import check_finite
from dioscuri.context import Context
from dioscuri.data.classes import check_learnt_classes, read_classes
from dioscuri.errors import UserError
from dioscuri.hparams.sections import Train

CLOCKS = {"wall": "seconds", "cpu": "cpu_seconds"}
"""Where a checkpoint's information holds the seconds of training, by `train.time_limit_clock`."""


@dataclass(frozen=True)
class Start:
    """What was restored: the number of batches trained on and the checkpoint's information."""

    step: int = 0
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> dict[str, float] | None:
        """`step` and `score` of the best validation so far."""
        return self.info.get("best")

    def lacks_validation(self, options: Train) -> bool:
        """Whether the run was stopped before the validation that was due at its last step. Checkpoints of
        version 0.1.0 do not record this and count as validated."""
        due = is_due(self.step, options) or out_of_time(self.info, options)
        return due and self.info.get("validated", self.step) != self.step

    def at_end(self, options: Train) -> bool:
        """Whether the run has all its batches, or has trained for as long as it may."""
        return self.step >= options.total_train_steps or out_of_time(self.info, options)


def is_due(done: int, options: Train) -> bool:
    """Whether the run is validated and saved after `done` batches."""
    at_interval = done % options.checkpoint_and_eval_interval_in_steps == 0
    return done > 0 and (at_interval or done == options.total_train_steps)


def out_of_time(info: Mapping[str, Any], options: Train) -> bool:
    """Whether a run with that `info` in its checkpoint has trained for `time_limit_in_seconds`."""
    seconds: float = info.get(CLOCKS[options.time_limit_clock], 0.0)
    return 0 < options.time_limit_in_seconds <= seconds


def restore(context: Context, resume_from: Path | None) -> Start:
    """Load the newest intact checkpoint of the run into the engine, or that of `resume_from` if it has more
    steps; without either, initialise.

    `train.resume_from_ema` starts from the averaged weights.
    """
    root = context.directory.checkpoints
    roots = [root] if store.steps(root) else []
    if resume_from is not None:
        other = _checkpoints_of(resume_from)
        if not roots or max(store.steps(other)) > max(store.steps(root)):
            roots.insert(0, other)
        else:
            context.say(f"{root} has at least as many steps as {resume_from}: continuing from there")
    if not roots:
        context.engine.initialise()
        return Start()
    checkpoint = load(context, roots[0], averaged=context.hparams.train.resume_from_ema)
    check_learnt(checkpoint, made_by(context.hparams, context.sets.train))
    check_base(checkpoint, context.hparams)
    if context.hparams.data.labels:
        learnt = checkpoint.info.get("classes")
        check_learnt_classes(learnt, context.sets.train.classes, context.directory.path)
    context.say(f"continuing from {checkpoint.path}: {checkpoint.step} batches")
    info = dict(checkpoint.info)
    if roots[0] != root:
        # The other run's best checkpoint is not copied; this run chooses among its own.
        info.pop("best", None)
        info.pop("validated", None)
    return Start(checkpoint.step, info)


def load(
    context: Context,
    root: Path,
    step: int | None = None,
    *,
    averaged: bool = False,
    groups: Collection[str] | None = None,
) -> store.Checkpoint:
    """Load a checkpoint (default: the newest intact one) into the engine, with a warning for damaged ones;
    all of its tensors, or `groups`.

    With `averaged`, the averaged weights replace the raw ones.
    """
    checkpoint = store.load(root, step, groups=groups)
    for warning in checkpoint.warnings:
        context.say(f"warning: {warning}")
    state = dict(checkpoint.state)
    if averaged:
        state["model"] = state["ema"]
    try:
        context.engine.state_from_numpy(state)
    except UserError as error:
        raise UserError(f"{checkpoint.path}: {error}") from error
    return checkpoint


def load_best(context: Context, *, averaged: bool) -> store.Checkpoint:
    """Load the checkpoint of the best validation, or the newest one if none was validated.

    Raises a `UserError` if the weights to use, averaged or raw, are not finite.
    """
    checkpoint = _load_best(context)
    check_finite(checkpoint, averaged=averaged)
    return checkpoint


def load_weights(context: Context, *, averaged: bool) -> store.Checkpoint:
    """The same for an engine for inference: only these weights of the checkpoint are read, and only the
    engine holds them."""
    checkpoint = _load_best(context, ("ema" if averaged else "model",))
    check_finite(checkpoint, averaged=averaged)
    return replace(checkpoint, state={})


def _load_best(context: Context, groups: Collection[str] | None = None) -> store.Checkpoint:
    root = context.directory.checkpoints
    if not store.steps(root):
        raise UserError(f"{root} holds no checkpoint: train the run '{context.hparams.run.name}' first")
    newest = replace(store.load(root, groups=groups), state={})
    check_learnt(newest, made_by(context.hparams))
    check_base(newest, context.hparams)
    if context.hparams.data.labels:
        folder = context.directory.path
        check_learnt_classes(newest.info.get("classes"), read_classes(folder), folder)
    best = newest.info["best_step"]
    if best is not None and best != newest.step:
        try:
            return load(context, root, int(best), groups=groups)
        except UserError as error:
            context.say(f"warning: {error}; taking the newest one, step {newest.step}")
    return load(context, root, newest.step, groups=groups)


def _checkpoints_of(run: Path) -> Path:
    root = RunDirectory(run).checkpoints
    if not run.is_dir():
        raise UserError(f"--resume-from: {run} does not exist: give the folder logs-<name> of a run")
    if not store.steps(root):
        raise UserError(f"--resume-from: {run} holds no checkpoint in {root.name}/")
    return root
