"""What a family must provide, in one place: its host side (`Family`, `FamilyRun`) and its tensor side
(`FamilyMethods`, once in each twin).

`run.family` names a folder of `dioscuri/families`. There `options.py` has the dataclass `HParams` and the
options `ARCHITECTURE` that fix the network, `logic.py` has `FAMILY`, a `Family`, `face.py` has `FACE`, the
class of the Python interface, and `description.py`, if there is one, has `describe`, from the options to a
`Description` of what they build. `<twin>/families/<run.family>.py` has `FAMILY`, a class that fulfils
`FamilyMethods`. Nothing else knows a family by name; `docs/add_a_family.md` adds one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from dioscuri.checkpoint.store import Checkpoint
from dioscuri.context import Context
from dioscuri.data.descriptors import describe
from dioscuri.data.options import check_axes
from dioscuri.engine import Array
from dioscuri.errors import UserError
from dioscuri.plans.noise import NoiseSpec
from dioscuri.registry import family_part

TensorT = TypeVar("TensorT")
OnBatch = Callable[[], None]


@dataclass(frozen=True)
class Validation:
    """What a validation found: `score` picks the best checkpoint (lower is better), the rest is logged."""

    score: float
    headline: str
    scalars: Mapping[str, float]
    histograms: Mapping[str, Array] = field(default_factory=dict)
    images: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """Histograms, pictures and numbers of training data, logged beside a validation."""

    histograms: Mapping[str, Array]
    images: Mapping[str, Array]
    scalars: Mapping[str, float] = field(default_factory=dict)


class FamilyMethods(Protocol[TensorT]):
    """The tensor code of a family, for tensors of either framework.

    `<twin>/families/methods.py` has a class of this name with the usual answers; a family adds `build`,
    `loss` and its modes. The engine runs a mode by name:
    `mode(model, batch, noise, frozen, **options) -> dict[str, tensor]`, without gradients and without state.
    `batch` and the results have the rows first. `noise` holds what `noise_specs(mode, rows, **options)`
    lists, `frozen` what `frozen()` gave, placed on the device: tensors that are neither trained nor saved
    with the run, such as the weights of a tokenizer or of LPIPS, or an encoded empty text.
    """

    hparams: Any
    weight_decay: float
    metric_sizes: Mapping[str, int]
    """Names of the metrics of a step; the number of values of a vector, 0 for a single number."""
    switches: tuple[str, ...]
    """Those of the schedules' values that are truth values and decide what is computed: every combination is
    compiled on its own, and `loss` and `train_step` are given bools under these names."""

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical shape of every parameter."""

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Initial values under canonical names."""

    def decayed(self, name: str) -> bool:
        """Whether weight decay acts on a parameter."""

    def build(self) -> Any:
        """The model; its parameters' values do not matter."""

    def noise_specs(self, method: str, batch: int) -> tuple[NoiseSpec, ...]:
        """Noise that a mode, or the training step as `train_step`, takes for a batch of this size."""

    def frozen(self) -> dict[str, Array]:
        """Tensors that are neither trained nor saved with the run."""

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
        """The training objective (0-d) to differentiate with respect to the model's parameters, metrics, and
        the new buffers, those that did not change among them.

        `scalars` holds the schedules' values. `buffers` are tensors that a step changes without a gradient,
        such as averages of a codebook: they begin as `initial_buffers(seed)`.
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
        """One step by the means of the twin's `Trainer`: the `TrainState` behind it, the step's metrics and
        the norm of its gradient. The usual one takes the gradient of `loss` and updates all parameters."""


class FamilyRun(Protocol):
    """What the training loop calls. `step` counts the batches trained on, except in `scalars`."""

    def __init__(self, context: Context) -> None: ...

    def scalars(self, step: int) -> dict[str, float]:
        """Values of the schedules for the batch of index `step`, counted from 0."""

    def logged(self, metrics: Mapping[str, float], step: int) -> dict[str, float]:
        """Tags and values for the log, from what `Engine.fetch_metrics` gave after `step` batches."""

    def headline(self, metrics: Mapping[str, float]) -> str:
        """What stands beside the progress bar."""

    def validate(self, step: int, on_batch: OnBatch) -> Validation:
        """Validate with averaged and raw weights; `on_batch` is called after every batch and may raise."""

    def show(self, step: int) -> Shown:
        """What the model makes of a few training pictures."""

    def facts(self) -> dict[str, int]:
        """Counts that are printed with the number of parameters when a run starts, such as
        `latent_groups`."""

    def report(self) -> dict[str, Any]:
        """Tell how good the checkpoint is that the engine holds; the numbers for `report.json`, which may be
        nested."""

    def synthesise(self, checkpoint: Checkpoint) -> None:
        """Run the mode `synthesis.synthesis_mode` with the checkpoint in the engine."""


def _nothing_to_check(context: Context) -> None:
    del context


def _no_values(hparams: Any) -> dict[str, Array]:
    del hparams
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """The host side of a family.

    `check_options` and `check_examples` raise a `UserError` that names what does not fit. `network_shapes`
    are the shapes under canonical names of what makes pictures: of a tokenizer without its discriminator,
    whose first values `training_values` gives.
    """

    run: Callable[[Context], FamilyRun]
    check_options: Callable[[Any], None]
    network_shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    check_examples: Callable[[Context], None] = _nothing_to_check
    training_values: Callable[[Any], dict[str, Array]] = _no_values
    takes_tokens: bool = False
    """Whether its examples may be tokens."""
    takes_signals: bool = False
    """Whether its examples may be sounds or clips."""
    grey_levels: bool = False
    """Whether pictures of one channel may be their own tokens, a level a token."""


def family_of(hparams: Any) -> Family:
    """The host side of the run's family."""
    family: Family = family_part(hparams.run.family, "logic").FAMILY
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


def check_examples(context: Context) -> None:
    """Raise a `UserError` if the family cannot be trained on the run's examples."""
    family_of(context.hparams).check_examples(context)
