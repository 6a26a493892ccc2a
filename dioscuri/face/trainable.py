"""The interface of a model for custom training loops: its network, batches, loss and noise."""

from collections.abc import Collection, Mapping
from math import inf, nan
from typing import Any, ClassVar

import numpy as np

from dioscuri.engine import Array
from dioscuri.errors import UserError, kind_of, quoted
from dioscuri.face.network import Network
from dioscuri.face.recorded import checked_noise, drawn
from dioscuri.inputs import check_lengths, check_names, read_count, read_pictures, read_seed
from dioscuri.plans.noise import NoiseSpec

_NOISY = ("encode", "decode", "reconstruct", "generate", "inpaint", "edit")
"""Methods that use noise in some families; others use that of these."""


class Trainable:
    """A network with its options and perhaps a tokenizer."""

    does: tuple[str, ...] = ()
    """The methods that the model has, some of `face.model.METHODS`; of a class, those of its family."""
    _noise_options: ClassVar[tuple[str, ...]] = ()
    """Options of methods that decide which noise is used."""
    _network: Network
    _tokenizer: Any

    @property
    def family(self) -> str:
        """Name of the model's family, such as 'maskgit'."""
        return str(self.hparams.run.family)

    @property
    def twin(self) -> str:
        """'torch' or 'jax'."""
        return self._network.name

    @property
    def hparams(self) -> Any:
        """All options, by section: `model.hparams.data.target_res`. They are frozen."""
        return self._network.hparams

    @property
    def module(self) -> Any:
        """The network: an `nn.Module` of PyTorch or an `nnx.Module` of Flax. Changes to it, such as an
        optimiser's to its weights, apply to all methods at once."""
        return self._network.module

    @property
    def device(self) -> Any:
        """The device of the weights, of PyTorch or JAX."""
        return self._network.device

    @property
    def state(self) -> Any:
        """JAX: the parameters, an `nnx.State`, as `loss` takes them and optimisers update them."""
        return self._of_network("state")

    @state.setter
    def state(self, value: Any) -> None:
        self._of_network("state")
        self._network.state = value  # type: ignore[attr-defined] # JAX's network

    @property
    def buffers(self) -> dict[str, Any]:
        """Tensors by name that training changes without a gradient, such as the averages of a codebook; empty
        for most models. PyTorch's `loss` updates them; with JAX, set them as `state`."""
        return dict(self._network.buffers)

    @buffers.setter
    def buffers(self, value: Any) -> None:
        shapes = {name: np.shape(array) for name, array in self._network.buffers.items()}
        if (
            not isinstance(value, Mapping)
            or {name: np.shape(array) for name, array in value.items()} != shapes
        ):
            raise UserError(f"buffers must be arrays by name, as model.buffers has them: {shapes or 'none'}")
        self._network.buffers = dict(value)

    @property
    def picture_shape(self) -> tuple[int, ...]:
        """(H, W, C) of pictures; (L, C) of sounds; (T, H, W, C) of video clips."""
        data = self.hparams.data
        return (data.target_res, data.target_res, data.channels)

    def batch(self, pictures: Any = None, **rows: Any) -> dict[str, Any]:
        """A checked batch for `loss`: `pictures` and, by name, the model's other training inputs.

        Token models also take `tokens` instead of pictures; models with classes take `classes`.
        """
        given = dict(rows) if pictures is None else {"pictures": pictures, **rows}
        for word, name in (("classes", "label"), ("pictures", "image")):
            if word in given:
                if name in given:
                    raise UserError(
                        f"the batch has {word} and '{name}', which are the same: give one of them"
                    )
                given[name] = given.pop(word)
        return self._checked_batch(given, padded=False)

    def loss(
        self,
        *given: Any,
        noise: Mapping[str, Any] | None = None,
        schedules: Mapping[str, float] | None = None,
    ) -> Any:
        """The training objective, as the training loop computes it: (loss, metrics by name).

        PyTorch: `loss(batch)`, where `batch` is what `batch(...)` returns, or a mapping like it; noise
        comes from PyTorch's default generator. JAX: `loss(state, batch, key)`, a pure function for
        `jax.value_and_grad(model.loss, has_aux=True)`, with `model.state` as the first argument. A model
        with `buffers` also takes them, `loss(state, batch, key, buffers)`, and returns new ones as
        `metrics["buffers"]`; `with_buffers` sets the parameters that follow from them.

        `noise` replaces the generator or the key by recorded noise. `schedules` sets values such as `beta`;
        the others have the final values of their schedules.
        """
        place, numbers = (0, (1,)) if self._network.name == "torch" else (1, (3, 4))
        if len(given) not in numbers:
            call = "loss(batch)" if place == 0 else "loss(state, batch, key), perhaps with buffers"
            raise UserError(f"loss takes {call}, not {len(given)} arguments")
        if not isinstance(given[place], Mapping):
            raise UserError(f"loss takes a mapping, not {kind_of(given[place])}: see model.batch")
        arguments = list(given)
        arguments[place] = self._checked_batch(given[place], padded=True)
        if noise is not None and not _any_traced(noise):
            rows = len(next(iter(arguments[place].values())))
            noise = checked_noise(noise, self._noise_specs("train_step", rows))
        tokenizer = None if self._tokenizer is None else self._tokenizer._network
        return self._network.loss(
            *arguments, scalars=self._schedules(schedules), noise=noise, tokenizer=tokenizer
        )

    def with_buffers(self, state: Any, buffers: Mapping[str, Any]) -> Any:
        """JAX: the state with the parameters that follow from new buffers, such as a codebook from averages.

        Call it after the optimiser's update; PyTorch sets such parameters automatically.
        """
        return self._of_network("with_buffers")(state, buffers)

    def noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """Name, kind and shape of the noise that a method uses for `rows` rows. With such arrays as `noise=`,
        both twins compute the same."""
        check_names((method,), self._noisy, "noise of a call: method")
        return self._noise_specs(method, read_count(rows, "rows"), **options)

    def draw_noise(self, method: str, rows: int, *, seed: int = 0, **options: Any) -> dict[str, Array]:
        """Noise of a method for `noise=`, drawn by numpy: the same in both twins."""
        rng = np.random.default_rng(read_seed(seed))
        return {spec.name: drawn(rng, spec) for spec in self.noise_specs(method, rows, **options)}

    # For families.

    def _noise_specs(self, method: str, rows: int, **options: Any) -> tuple[NoiseSpec, ...]:
        """What `noise_specs` returns for a method and rows that were checked."""
        check_names(options, self._noise_options, f"noise of {method}: option")
        return self._network.noise_specs(method, rows, **options)

    @property
    def _noisy(self) -> tuple[str, ...]:
        """Methods that may use noise: `train_step` is that of `loss`."""
        return (*(name for name in _NOISY if name in self.does), "evaluate", "train_step")

    @property
    def _names(self) -> tuple[str, ...]:
        """Names of a training batch."""
        return ("image", "label") if self.hparams.data.labels else ("image",)

    @property
    def _conditions_of_batch(self) -> tuple[str, ...]:
        """Names of a training batch that it must have, besides its examples."""
        return tuple(name for name in self._names if name == "label")

    def _checked(self, name: str, value: Any, *, padded: bool) -> Array:
        """A checked entry of a training batch; `padded` pictures already have the data source's padding."""
        del padded
        if name == "image":
            return self._pictures(value)
        raise NotImplementedError(name)

    def _final_schedules(self) -> dict[str, float]:
        """Values of the schedules at the end of training."""
        return {}

    def _pictures(self, given: Any, what: str = "pictures") -> Array:
        return read_pictures(given, self.picture_shape, what=what)

    def _checked_batch(self, given: Mapping[str, Any], *, padded: bool) -> dict[str, Any]:
        check_names(given, self._names, "batch entry")
        if not given:
            raise UserError(f"the batch is empty: give {' and '.join(self._names)}")
        self._check_complete(given)
        rows = {}
        for name, value in given.items():
            check = self._check_traced if is_traced(value) else self._checked
            rows[name] = check(name, value, padded=padded)
        check_lengths(rows)
        return rows

    def _check_traced(self, name: str, value: Any, *, padded: bool) -> Any:
        """A tracer, which has a shape and a type but no values; a `UserError` unless it is as `batch` makes
        it."""
        expected = self._checked(name, np.zeros(value.shape, value.dtype), padded=padded)
        whole, traced_whole = (np.issubdtype(array.dtype, np.integer) for array in (expected, value))
        if expected.shape != value.shape or whole != traced_whole:
            raise UserError(
                f"within jit, '{name}' must be {expected.dtype} {expected.shape}, as model.batch makes it; "
                f"got {value.dtype} {value.shape}"
            )
        return value

    def _check_complete(self, given: Collection[str]) -> None:
        """Raise a `UserError` if a batch has no examples, or lacks conditions of the model: without them it
        would be trained, or fail, as another one."""
        examples = [name for name in ("image", "tokens") if name in self._names]
        if sum(name in given for name in examples) != 1:
            number = "two kinds of" if examples[0] in given else "no"
            raise UserError(f"the batch has {number} examples: give {' or '.join(examples)}")
        for name in self._conditions_of_batch:
            if name not in given:
                hint = "classes: give model.batch(pictures, classes=...)" if name == "label" else name
                raise UserError(f"the batch has no {hint}")

    def _schedules(self, given: Mapping[str, float] | None) -> dict[str, float]:
        final = self._final_schedules()
        if not isinstance(given, Mapping | None):
            raise UserError(f"schedules must be numbers by name, not {quoted(given)}")
        check_names(given or {}, tuple(final), "schedule")
        return final | {name: _schedule(name, value) for name, value in (given or {}).items()}

    def _of_network(self, name: str) -> Any:
        if not hasattr(self._network, name):
            raise UserError(
                f"a model of {self._network.name} has no {name}: its parameters are module.parameters()"
            )
        return getattr(self._network, name)


def _schedule(name: str, value: Any) -> float:
    """The value of a schedule, a finite number of at least 0."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # of tensors of several numbers
        number = nan
    if not 0 <= number < inf:
        raise UserError(f"schedule '{name}' must be a finite number of at least 0, not {quoted(value)}")
    return number


def _any_traced(arrays: Any) -> bool:
    return isinstance(arrays, Mapping) and any(map(is_traced, arrays.values()))


def is_traced(value: Any) -> bool:
    """Whether a value is a JAX tracer, which has no numbers yet."""
    return any(kind.__name__ == "Tracer" for kind in type(value).__mro__)
