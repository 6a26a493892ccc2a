"""Low-rank adapters of a model in the Python interface."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dioscuri.checkpoint.adapter_files import Adapter, read_adapter, write_adapter, write_diffusers
from dioscuri.engine import Array
from dioscuri.errors import UserError, quoted
from dioscuri.face.network import Network
from dioscuri.face.options import with_options
from dioscuri.face.trainable import Trainable
from dioscuri.files import read_path
from dioscuri.hparams.adapters import LoRA
from dioscuri.inputs import read_count
from dioscuri.plans import lora
from dioscuri.plans.parameters import initial_values


class Adaptable(Trainable):
    """A model that may have low-rank adapters (Hu et al. 2021), which are then all that is trained.

    Each of these methods replaces `module`: make an optimiser afterwards.
    """

    _merged: tuple[LoRA, dict[str, Array], dict[str, Array]] | None = None
    """Options and weights of merged adapters, and their layers' weights before."""

    @property
    def adapter(self) -> LoRA | None:
        """Options of the model's adapters, None without any."""
        return lora.adapters_of(self.hparams)

    def add_adapter(
        self,
        rank: int = 8,
        *,
        alpha: float = 0.0,
        targets: Sequence[str] = ("attention", "feed_forward"),
        dropout: float = 0.0,
        seed: int = 0,
    ) -> Self:
        """New adapters, which change nothing until they are trained.

        Their products are scaled by `alpha / rank`, by 1 if alpha is 0. `targets` are 'attention',
        'feed_forward', and names of dense layers or the ends of such names. `dropout` acts in
        `loss`. A `UserError` names an option that is wrong or a target that the
        network lacks, or says that there are adapters already.
        """
        given = {"rank": rank, "alpha": alpha, "targets": targets, "dropout": dropout}
        self._check_without_adapter("add_adapter")
        options = with_options(self._lora, given, tuple(given), "add_adapter", "lora")
        if not options.rank:
            raise UserError("add_adapter: rank must be at least 1, not 0")
        network = self._network_shapes()
        table = lora.adapter_table(network, options.rank, options.targets)
        return self._adapted(options, initial_values(table, read_count(seed, "seed", low=0)))

    def load_adapter(self, where: Path | str) -> Self:
        """Adapters of a folder that `save_adapter`, peft or a run wrote, or of a file.

        A `UserError` names the first tensor that does not fit the model.
        """
        self._check_without_adapter("load_adapter")
        adapter = self._read_adapter(read_path(where, "load_adapter takes a folder or a file"))
        return self._adapted(adapter.options, adapter.weights)

    def save_adapter(self, folder: Path | str, *, layout: str = "peft") -> None:
        """Write the adapters alone: `adapter_config.json` and `adapter_model.safetensors`, as peft does, or,
        with `layout="diffusers"`, the file `pytorch_lora_weights.safetensors`.

        A `UserError` if diffusers does not have this network, a U-ViT.
        """
        options = self._adapter_for("save_adapter")
        _, adapters = lora.split_adapters(self._network.weights())
        if layout not in ("peft", "diffusers"):
            raise UserError(f"save_adapter: layout must be 'peft' or 'diffusers', not {quoted(layout)}")
        folder = read_path(folder, "save_adapter takes a folder")
        if layout == "diffusers":
            write_diffusers(folder, self._for_diffusers(adapters, options.scale))
            return
        write_adapter(folder, Adapter(options, adapters), self.hparams.run.name)

    def merge_adapter(self) -> Self:
        """Fold the adapters into the layers' weights: the model then is a plain one and as fast."""
        options = self._adapter_for("merge_adapter")
        weights = self._network.weights()
        base, adapters = lora.split_adapters(weights)
        shapes = self._network_shapes()
        dense = lora.dense_layers(shapes)
        layers = lora.layers_with_adapters(shapes, options.targets)
        before = {dense[name]: base[dense[name]] for name in layers}
        self._set(LoRA(), lora.merged(weights, options.scale))
        self._merged = options, adapters, before
        return self

    def unmerge_adapter(self) -> Self:
        """Undo `merge_adapter`: the layers' weights are, bit for bit, those before, and the adapters are
        separate again."""
        if self._merged is None:
            raise UserError("unmerge_adapter: no adapters have been merged: merge_adapter comes first")
        options, adapters, before = self._merged
        self._set(options, {**self._network.weights(), **before, **adapters})
        self._merged = None
        return self

    def remove_adapter(self) -> Self:
        """The model without its adapters, as it was before they were added."""
        self._adapter_for("remove_adapter")
        base, _ = lora.split_adapters(self._network.weights())
        self._set(LoRA(), base)
        return self

    # Within models.

    @property
    def _lora(self) -> LoRA:
        options: LoRA | None = getattr(self.hparams, "lora", None)
        if options is None:
            raise UserError(f"a model of family '{self.family}' takes no adapters: it has no transformer")
        if self._network.buffers:
            raise UserError(
                "this tokenizer takes no adapters: its codebook or its norms change without a gradient, and "
                "adapters leave a model's weights alone"
            )
        return options

    def _read_adapter(self, where: Path) -> Adapter:
        return read_adapter(where, self._network_shapes())

    def _for_diffusers(self, adapters: Mapping[str, Array], scale: float) -> dict[str, Array]:
        """Adapters under diffusers' names."""
        del adapters, scale
        raise UserError("save_adapter: diffusers does not have this network: take the layout of peft")

    def _whole_weights(self) -> dict[str, Array]:
        """Weights of the network, with adapters folded in."""
        weights, options = self._network.weights(), self.adapter
        return lora.merged(weights, options.scale) if options else weights

    def _network_shapes(self) -> Mapping[str, tuple[int, ...]]:
        base, _ = lora.split_adapters(self._network.shapes)
        return base

    def _adapter_for(self, call: str) -> LoRA:
        if self.adapter is None:
            raise UserError(f"{call}: this model has no adapters: add_adapter or load_adapter comes first")
        return self.adapter

    def _check_without_adapter(self, call: str) -> None:
        if self._lora.rank:
            raise UserError(f"{call}: this model has adapters: merge_adapter or remove_adapter comes first")

    def _adapted(self, options: LoRA, adapters: Mapping[str, Array]) -> Self:
        self._set(options, {**self._network.weights(), **adapters})
        self._merged = None
        return self

    def _set(self, options: LoRA, weights: Mapping[str, Array]) -> None:
        """Replace the network by one with these adapters."""
        hparams = replace(self.hparams, lora=options)
        network: Any = type(self._network)
        made: Network = network(hparams, weights, self.device, self._network.buffers)
        self._network = made
