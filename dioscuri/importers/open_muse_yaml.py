"""Training configurations of open-muse (YAML with OmegaConf's interpolation) as options of a `.cfg`."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dioscuri.errors import UserError
from dioscuri.importers.published import Published, described_transformer
from dioscuri.outputs.settings import flattened

Words = list[tuple[str, Any]]
Settings = Mapping[str, Any]

_REFERENCE = re.compile(r"\$\{([\w.]+)\}")
_MAX_DEPTH, _MAX_CHARACTERS = 20, 1 << 20

OPTIMIZERS = {"adamw": "AdamW", "fused_adamw": "AdamW", "8bit_adamw": "AdamW", "lion": "Lion"}
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant_with_warmup",
    "linear": "linear",
    "cosine": "half_cosine",
    "cosine_with_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
}
PRECISIONS = {"no": "float32", "bf16": "bfloat16", "fp16": "bfloat16"}

FILTERS = (
    "min_size", "max_pwatermark", "min_aesthetic_score", "max_pnsfw", "require_marked_as_ok_by_spawning",
    "require_marked_as_not_getty",
)  # fmt: skip
"""Options of `[data]` that leave pictures out, under `dataset.params` or `dataset.preprocessing`."""

DIRECT = {
    "experiment.name": "run.name",
    "experiment.save_every": "train.checkpoint_and_eval_interval_in_steps",
    "experiment.log_every": "train.logging_interval_in_steps",
    "model.gradient_checkpointing": "train.checkpoint_activations",
    "dataset.preprocessing.resolution": "data.target_res",
    "dataset.preprocessing.random_flip": "data.random_horizontal_flip",
    "optimizer.params.learning_rate": "optimizer.learning_rate",
    "optimizer.params.beta1": "optimizer.beta1",
    "optimizer.params.beta2": "optimizer.beta2",
    "optimizer.params.epsilon": "optimizer.epsilon",
    "optimizer.params.weight_decay": "loss.weight_decay",
    "lr_scheduler.params.warmup_steps": "optimizer.warmup_steps",
    "training.gradient_accumulation_steps": "train.accumulation_steps",
    "training.seed": "run.seed",
    "training.max_train_steps": "train.total_train_steps",
    "training.min_masking_rate": "loss.min_masking_rate",
    "training.label_smoothing": "loss.label_smoothing",
    "training.cond_dropout_prob": "loss.cond_dropout_prob",
    "training.mask_contiguous_region_prob": "loss.mask_contiguous_region_prob",
    "training.noise_type": "loss.noise_type",
    "training.predict_all_tokens": "loss.predict_all_tokens",
    "training.use_soft_code_target": "loss.use_soft_code_target",
    "training.soft_code_temp": "loss.soft_code_temp",
    "training.eval_mask_ratios": "val.mask_ratios",
    "training.generation_timesteps": "synthesis.steps",
    "training.ema_decay": "train.ema_decay",
    "training.ema_update_after_step": "train.ema_update_after",
    "training.ema_update_every": "train.ema_update_every",
    "mask_schedule.schedule": "loss.mask_schedule",
    **{f"dataset.params.{name}": f"data.{name}" for name in FILTERS},
    **{f"dataset.preprocessing.{name}": f"data.{name}" for name in FILTERS},
}
"""Options that differ only in name."""

LEFT_OUT = (
    "wandb", "experiment", "dataset", "model.vq_model", "model.text_encoder",
    "model.enable_xformers_memory_efficient_attention", "optimizer.params.scale_lr",
    "lr_scheduler.params.learning_rate", "training.enable_tf32", "training.overfit_one_batch",
    "training.pre_encode",
)  # fmt: skip
"""Options of data paths, logging and hardware, which are set elsewhere here or do not exist."""


def converted(
    config: Settings, where: object, overrides: Sequence[str] = ()
) -> tuple[list[str], tuple[str, ...]]:
    """Words `section.option=value` of a configuration, and lines that say what was left out or changed.

    `overrides` are the user's words. A `UserError` names a setting without a counterpart.
    """
    settings = resolved(config, where)
    flat = flattened(settings)
    try:
        described = _network(settings, overrides)
        words = [_pair(word) for word in described.overrides] + _direct(flat) + _translated(flat)
        words += _tar_files(dict(words))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{where} is not a complete configuration of open-muse: {type(error).__name__} {error}"
        ) from error
    return [
        f"{name}={value if name == 'run.name' else repr(value)}" for name, value in dict(words).items()
    ], (*described.notes, *_changed(flat))


def _changed(flat: Settings) -> list[str]:
    """Lines about options that are left out, unknown, or changed in value."""
    prefixes = tuple(f"{name}." for name in LEFT_OUT)
    remaining = [key for key in flat if key not in {*DIRECT, *TRANSLATED, "model.architecture"}]
    remaining = [key for key in remaining if not key.startswith("model.transformer.")]
    known = [key for key in remaining if key in LEFT_OUT or key.startswith(prefixes)]
    lines = [f"'{key}' is unknown and left out" for key in remaining if key not in known]
    if known:
        lines.append(f"left out, as data, logs and hardware are set otherwise here: {', '.join(known)}")
    if encoder := flat.get("model.text_encoder.pretrained"):
        lines.append(f"data.text_encoder_path takes the folder of the text encoder '{encoder}'")
    if flat.get("training.mixed_precision") == "fp16":
        lines.append("'training.mixed_precision' fp16 becomes train.precision='bfloat16'")
    return lines


def resolved(config: Settings, where: object) -> dict[str, Any]:
    """The configuration with references `${a.b}` replaced by their values; `???` (missing) is left out.

    A `UserError` if a reference leads nowhere or in a circle, or if references expand to too much data.
    """
    resolver = _Resolver(config, where)
    return {name: resolver.replaced(value, 0) for name, value in config.items()}


class _Resolver:
    """Replaces references, with a budget for all of them together."""

    def __init__(self, config: Settings, where: object) -> None:
        self.config, self.where, self.characters = config, where, 0

    def replaced(self, value: Any, depth: int) -> Any:
        """A value reached through `depth` references, with its own references replaced."""
        self.characters += 1 + (len(value) if isinstance(value, str) else 0)
        if depth > _MAX_DEPTH:
            raise UserError(f"{self.where}: references are circular")
        if self.characters > _MAX_CHARACTERS:
            raise UserError(f"{self.where}: references expand to too much data")
        if isinstance(value, Mapping):
            return {name: self.replaced(entry, depth) for name, entry in value.items() if entry != "???"}
        if isinstance(value, list):
            return [self.replaced(entry, depth) for entry in value]
        return self.text(value, depth + 1) if isinstance(value, str) else value

    def text(self, text: str, depth: int) -> Any:
        """The value that a text refers to if it is a single reference, else the
        text with references replaced."""
        if match := _REFERENCE.fullmatch(text):
            return self.replaced(self.at(match[1]), depth)
        return _REFERENCE.sub(lambda match: str(self.replaced(self.at(match[1]), depth)), text)

    def at(self, path: str) -> Any:
        """The value at a path of the configuration."""
        value: Any = self.config
        for name in path.split("."):
            if not isinstance(value, Mapping) or name not in value:
                raise UserError(f"{self.where}: ${{{path}}} refers to nothing")
            value = value[name]
        return value


def _network(settings: Settings, overrides: Sequence[str]) -> Published:
    """All options of `[model]`, the grid and the codebook size."""
    model = settings["model"]
    network = dict(model["transformer"])
    uvit = model.get("architecture") == "uvit" or "block_out_channels" in network
    network.setdefault("_class_name", "MaskGiTUViT_v2" if uvit else "MaskGitTransformer")
    resolution = settings.get("dataset", {}).get("preprocessing", {}).get("resolution", 256)
    network.setdefault("num_vq_tokens", (resolution // 16) ** 2)
    return described_transformer(network, overrides)


def _pair(word: str) -> tuple[str, Any]:
    name, _, text = word.partition("=")
    return name, _Text(text)


class _Text(str):
    """A value already in `.cfg` syntax."""

    __slots__ = ()
    __repr__ = str.__str__


def _direct(flat: Settings) -> Words:
    return [(ours, flat[theirs]) for theirs, ours in DIRECT.items() if flat.get(theirs) is not None]


def _translated(flat: Settings) -> Words:
    """Options whose values differ here."""
    words: Words = []
    for key, translate in TRANSLATED.items():
        if flat.get(key) is not None:
            words += translate(flat[key], flat)
    return words


def _tar_files(words: Mapping[str, Any]) -> Words:
    """The source that crops and leaves pictures out, if an option asks for that."""
    names = [f"data.{name}" for name in ("random_crop", *FILTERS)]
    return [("data.dataset_source", "webdataset")] if any(name in words for name in names) else []


def _text_length(length: int, flat: Settings) -> Words:
    """Class-conditional configurations have it, too, but nothing reads it there."""
    names = ("model.transformer.add_cross_attention", "model.transformer.block_out_channels")
    reads = flat.get("model.architecture") == "uvit" or any(flat.get(name) for name in names)
    return [("data.text_length", length)] if reads else []


def _crop(centre: bool, _flat: Settings) -> Words:
    return [] if centre else [("data.random_crop", True)]


def _optimizer(name: str, _flat: Settings) -> Words:
    return [("optimizer.type", _chosen(name, OPTIMIZERS, "optimizer.name"))]


def _schedule(name: str, flat: Settings) -> Words:
    """The rate decays from the end of the warm-up to the end of training, to 0 or, if polynomial, to 1e-7."""
    warmup = int(flat.get("lr_scheduler.params.warmup_steps") or 0)
    steps = int(flat.get("training.max_train_steps") or warmup + 1)
    return [
        ("optimizer.learning_rate_scheme", _chosen(name, SCHEDULES, "lr_scheduler.scheduler")),
        ("optimizer.warmup_steps", float(warmup)),
        ("optimizer.decay_start", warmup),
        ("optimizer.decay_steps", max(1, steps - warmup)),
        ("optimizer.min_learning_rate", 1e-7 if name == "polynomial" else 0.0),
    ]


def _batch(size: int, flat: Settings) -> Words:
    """Batch size of one device; the original counts micro-batches, this project whole batches."""
    return [("train.batch_size", size * int(flat.get("training.gradient_accumulation_steps") or 1))]


def _precision(name: str | bool, _flat: Settings) -> Words:
    """YAML reads `no` as false."""
    return [("train.precision", _chosen("no" if name is False else name, PRECISIONS, "mixed_precision"))]


def _clipping(norm: float, _flat: Settings) -> Words:
    return [("optimizer.clip_gradient_norm", True), ("optimizer.gradient_clip_norm_value", norm)]


def _guidance(scale: float, _flat: Settings) -> Words:
    """The conditional logits alone are 1 there, 0 here."""
    return [("synthesis.guidance_scale", max(0.0, scale - 1))]


def _ema(used: bool, _flat: Settings) -> Words:
    return [("train.ema_warmup", "count")] if used else [("train.ema_decay", 0.0)]


def _stochastic(used: bool, _flat: Settings) -> Words:
    if used:
        raise UserError("training.use_stochastic_code is not supported: codes are always the nearest ones")
    return []


def _sampling_schedule(name: str, _flat: Settings) -> Words:
    return [("synthesis.sampling_schedule", name)]


TRANSLATED: dict[str, Callable[[Any, Settings], Words]] = {
    "optimizer.name": _optimizer,
    "lr_scheduler.scheduler": _schedule,
    "dataset.preprocessing.center_crop": _crop,
    "dataset.preprocessing.max_seq_length": _text_length,
    "training.batch_size": _batch,
    "training.mixed_precision": _precision,
    "training.max_grad_norm": _clipping,
    "training.guidance_scale": _guidance,
    "training.use_ema": _ema,
    "training.use_stochastic_code": _stochastic,
    "mask_schedule.schedule": _sampling_schedule,
}


def _chosen(name: Any, known: Mapping[str, str], key: str) -> str:
    if name not in known:
        raise UserError(f"{key} '{name}' is not supported; known: {', '.join(known)}")
    return known[name]
