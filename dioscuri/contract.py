"""What a family must provide, in one place: its host side (`Family`, `FamilyRun`) and its tensor side
(`FamilyMethods`, once in each twin).

`run.family` names a folder of `dioscuri/families` with these modules:

    options.py      the dataclass `HParams`, and `ARCHITECTURE`, the options that fix the network;
                    `HParams.unread` may name options of shared sections that the family does not use
    logic.py        `FAMILY`, a `Family`
    face.py         `FACE`, the class of the Python interface
    description.py  optional: `describe`, from the options to a `Description` of the network

`<twin>/families/<run.family>.py` has `FAMILY`, a class that implements `FamilyMethods`. No other code knows a
family by name; `docs/add_a_family.md` adds one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.caption_cache import CaptionSource
from dioscuri.data.descriptors import describe
from dioscuri.data.options import check_axes
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.plans.lora import adapters_of, layers_with_adapters
from dioscuri.plans.noise import NoiseSpec
from dioscuri.registry import family_module

TensorT = TypeVar("TensorT")
OnBatch = Callable[[], None]


@dataclass(frozen=True)
class Validation:
    """Results of a validation: `score` selects the best checkpoint (lower is better), the rest is logged."""

    score: float
    headline: str
    scalars: Mapping[str, float]
    histograms: Mapping[str, Array] = field(default_factory=dict)
    images: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """Histograms, pictures and numbers of training data, logged with a validation."""

    histograms: Mapping[str, Array]
    images: Mapping[str, Array]
    scalars: Mapping[str, float] = field(default_factory=dict)


class FamilyMethods(Protocol[TensorT]):
    """The tensor code of a family, for tensors of either framework.

    `<twin>/families/methods.py` has a class of this name with defaults; a family adds `build`,
    `loss` and its modes. The engine runs a mode by name:
    `mode(model, batch, noise, frozen, **options) -> dict[str, tensor]`, without gradients and without state.
    The first axis of `batch` and of the results is the rows. `noise` holds the arrays that
    `noise_specs(mode, rows, **options)` lists, `frozen` those of `frozen()`, on the device: tensors that are
    neither trained nor saved with the run, such as the weights of a tokenizer or of LPIPS, or an encoded
    empty text.
    """

    hparams: Any
    weight_decay: float
    metric_sizes: Mapping[str, int]
    """Metric of a step -> number of values if it is a vector, 0 if it is a single number."""
    switches: tuple[str, ...]
    """Schedule values that are booleans and decide what is computed: each combination is compiled
    separately, and `loss` and `train_step` receive them as bools."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Initial values under canonical names."""

    def decayed(self, name: str) -> bool:
        """Whether weight decay applies to a parameter."""

    def build(self) -> Any:
        """The model; its parameters need not be initialised."""

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise that a mode, or `train_step`, takes for a batch of this size."""

    def frozen(self) -> dict[str, Array]:
        """Tensors that are neither trained nor saved with the run."""

    def frozen_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of what `frozen` gives, told without its files where that is possible."""

    def uses_frozen(self, method: str) -> bool:
        """Whether a mode takes what `frozen` gives; otherwise it may be called without."""

    def initial_buffers(self, seed: int) -> dict[str, Array]:
        """Initial values of the buffers."""

    def overwritten(
        self, buffers: Mapping[str, TensorT], parameters: Mapping[str, TensorT]
    ) -> dict[str, TensorT]:
        """Parameters, in canonical shapes, that follow from the buffers after a step, such as a codebook."""

    def loss(
        self,
        model: Any,
        batch: Mapping[str, TensorT],
        noise: Mapping[str, TensorT],
        scalars: Mapping[str, Any],
        buffers: Mapping[str, TensorT],
        frozen: Mapping[str, TensorT],
    ) -> tuple[TensorT, dict[str, TensorT], dict[str, TensorT]]:
        """The training objective (0-d), differentiated with respect to the model's parameters; metrics; and
        all buffers, changed or not.

        `scalars` holds the schedules' values. `buffers` are tensors that a step changes without a gradient,
        such as averages of a codebook; their initial values are `initial_buffers(seed)`.
        """

    def train_step(
        self,
        trainer: Any,
        state: Any,
        batch: Mapping[str, TensorT],
        noise: Mapping[str, TensorT],
        scalars: Mapping[str, Any],
        frozen: Mapping[str, TensorT],
    ) -> tuple[Any, dict[str, TensorT], TensorT]:
        """One step, built from the methods of the twin's `Trainer`: the new `TrainState`, the step's metrics
        and the norm of its gradient. The default takes the gradient of `loss` and updates all parameters."""


class FamilyRun(Protocol):
    """What the training loop calls. `step` counts the batches trained on, except in `scalars`."""

    def __init__(self, context: Context) -> None: ...

    def scalars(self, step: int) -> dict[str, float]:
        """Values of the schedules for the batch of index `step`, counted from 0."""

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Tags and values for the log, from the metrics of `Engine.fetch_metrics` after `step` batches."""

    def headline(self, metrics: Mapping[str, float]) -> str:
        """The text next to the progress bar."""

    def validate(self, step: int, on_batch: OnBatch) -> Validation:
        """Validate the averaged and the raw weights; `on_batch` is called after every batch and may raise."""

    def show(self, step: int) -> Shown:
        """The model's outputs for a few training pictures."""

    def facts(self) -> dict[str, int]:
        """Counts printed with the number of parameters when a run starts, such as `latent_groups`."""

    def report(self) -> dict[str, Any]:
        """Measure the checkpoint loaded in the engine; returns the numbers for `report.json`, which may be
        nested."""

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode `synthesis.synthesis_mode` with the checkpoint loaded in the engine."""


def _nothing_to_check(context: Context) -> None:
    del context


def _same(hparams: Any) -> Any:
    return hparams


def _no_captions(hparams: Any) -> CaptionSource | None:
    del hparams
    return None


def _as_given(hparams: Any, method: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    del hparams, method
    return given


def _no_values(hparams: Any) -> dict[str, Array]:
    del hparams
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """The host side of a family.

    `check_options` and `check_examples` raise a `UserError` that names what does not fit. `network_shapes`
    gives the shapes, under canonical names, of the network that makes pictures: a tokenizer without its
    discriminator. `training_values` gives the initial values of networks used in training only,
    `network_options` the options without them. `captions` tells how captions of pictures are encoded.
    `arguments` gives the arguments of a mode for those of a call: JAX compiles a program for every value of
    an option, but one for all arrays, such as the schedules that follow from options.
    """

    run: Callable[[Context], FamilyRun]
    check_options: Callable[[Any], None]
    network_shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    check_examples: Callable[[Context], None] = _nothing_to_check
    training_values: Callable[[Any], dict[str, Array]] = _no_values
    network_options: Callable[[Any], Any] = _same
    captions: Callable[[Any], CaptionSource | None] = _no_captions
    arguments: Callable[[Any, str, Mapping[str, Any]], Mapping[str, Any]] = _as_given
    takes_tokens: bool = False
    """Whether its examples may be tokens."""
    takes_signals: bool = False
    """Whether its examples may be sounds or video clips."""
    grey_levels: bool = False
    """Whether one-channel pictures may be used as tokens: each grey level is one token."""


def family_of(hparams: Any) -> Family:
    """The host side of the run's family."""
    family: Family = family_module(hparams.run.family, "logic").FAMILY
    return family


def family_run(context: Context) -> FamilyRun:
    """The host logic of a run."""
    return family_of(context.hparams).run(context)


def check_options(hparams: Any) -> None:
    """Raise a `UserError` that names the first option that does not fit the others."""
    family, source = family_of(hparams), hparams.data.dataset_source
    descriptor = describe(source)
    unfit = (descriptor.tokens and not family.takes_tokens) or (
        descriptor.rank != 2 and not family.takes_signals
    )
    if unfit:
        raise UserError(f"[data] dataset_source '{source}': family '{hparams.run.family}' needs pictures")
    check_axes(hparams.data, descriptor)
    if hparams.data.labels and not getattr(hparams.model, "num_classes", 0):
        raise UserError(
            f"[data] labels is True, but family '{hparams.run.family}' uses no labels for this model: set it "
            "to False"
        )
    family.check_options(hparams)
    _check_adapters(hparams, family)


def _check_adapters(hparams: Any, family: Family) -> None:
    """Raise a `UserError` for adapters that the network cannot have."""
    if not (options := adapters_of(hparams)):
        return
    layers_with_adapters(family.network_shapes(hparams), options.targets)
    if hparams.train.shard != "none":
        raise UserError(
            f"[train] shard is '{hparams.train.shard}', but every device holds the whole base, and adapters "
            "are too small to be shared: set it to 'none'"
        )


def check_examples(context: Context) -> None:
    """Raise a `UserError` if the family cannot be trained on the run's examples."""
    family_of(context.hparams).check_examples(context)
