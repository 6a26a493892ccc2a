"""The JSON configurations of Metroplex's two programs as `.cfg` text.

The TensorFlow program's files have an object `dataset`; the later JAX program's have `image_size` at the top
level.
"""

from collections.abc import Callable, Mapping
from typing import Any

from dioscuri.errors import UserError, did_you_mean, shorten
from dioscuri.importers.metroplex_json_tokenizers import is_tokenizer, sides, tokenizer_options

Values = dict[str, Any]

DEFAULTS: Values = {
    "run.family": "metroplex", "run.name": "metroplex", "run.seed": 0, "run.num_gpus": 1, "run.num_cpus": 8,
    "run.max_allowed_checkpoints": 2,
    "data.dataset_source": "custom", "data.train_data_path": "", "data.val_data_path": "",
    "data.synthesis_data_path": "", "data.target_res": 32, "data.channels": 3, "data.num_bits": 8.0,
    "data.random_horizontal_flip": False,
    "metrics.latent_active_threshold": 1e-4,
    "optimizer.type": "Adam", "optimizer.learning_rate_scheme": "constant_times_warmup",
    "optimizer.learning_rate": 3e-4, "optimizer.warmup_steps": 100.0, "optimizer.decay_steps": 40000,
    "optimizer.decay_start": 0, "optimizer.min_learning_rate": 3e-5, "optimizer.decay_rate": 1.0,
    "optimizer.beta1": 0.9, "optimizer.beta2": 0.999, "optimizer.epsilon": 1e-8,
    "optimizer.clip_gradient_norm": True, "optimizer.gradient_clip_norm_value": 200.0,
    "optimizer.gradient_skip": True, "optimizer.gradient_skip_threshold": 300.0,
    "train.total_train_steps": 40000, "train.batch_size": 256, "train.ema_decay": 0.0,
    "train.resume_from_ema": False, "train.logging_interval_in_steps": 500,
    "train.checkpoint_and_eval_interval_in_steps": 1000,
    "val.n_samples_for_validation": 2560, "val.batch_size": 256,
    "synthesis.synthesis_mode": "reconstruction", "synthesis.load_ema_weights": True,
    "synthesis.variate_masks_quantile": 0.3, "synthesis.save_target_in_reconstruction": True,
    "synthesis.mask_reconstruction": False, "synthesis.div_stats_subset_ratio": 0.1,
    "synthesis.n_generation_batches": 1, "synthesis.temperature_settings": [0.8, 0.9, 1.0],
    "synthesis.output_temperature": 1.0, "synthesis.batch_size": 32,
}  # fmt: skip

SAME = (
    "width", "depth", "base_hidden_res", "prog_mode", "start_res", "outer_width", "custom_width_str",
    "enc_blocks", "dec_blocks", "exp_scale", "zdim_factor", "zero_weights", "final_fn", "no_bias_above",
    "bottleneck_multiple", "num_mixtures", "shared_sigma", "color_non_ar", "transformer", "attn_block_opt",
    "enc_dec_mode", "head_dim", "rezero", "abs_enc", "init_std", "init_scale", "enc_mode",
    "random_init_posenc",
)  # fmt: skip
"""Keys of the TensorFlow program that are options of `[model]`."""

RENAMED = {
    "gradient_clipping": "optimizer.gradient_clip_norm_value", "lr": "optimizer.learning_rate",
    "warmup_steps": "optimizer.warmup_steps", "skip_threshold": "optimizer.gradient_skip_threshold",
    "beta_1": "optimizer.beta1", "beta_2": "optimizer.beta2", "epsilon": "optimizer.epsilon",
    "weight_decay": "loss.l2_weight", "seed": "run.seed", "ema_rate": "train.ema_decay",
    "steps_per_checkpoint": "train.checkpoint_and_eval_interval_in_steps",
    "iterations": "train.logging_interval_in_steps", "train_steps": "train.total_train_steps",
    "train_batch_size": "train.batch_size", "eval_batch_size": "val.batch_size",
    "predict_batch_size": "synthesis.batch_size", "eval_dataset_size": "val.n_samples_for_validation",
    "grad_checkpoint": "train.checkpoint_activations", "n_channels": "data.channels",
    "input_channels": "data.channels", "text_seq_len": "data.text_seq_len", "padding_id": "data.padding_id",
    "save_freq": "train.stabilizer_interval",
}  # fmt: skip

UNUSED = (
    "iters_per_host_call", "predict_steps", "attn_options", "space2depth", "model_path", "eval_steps",
    "batch_size_inv_factor", "iter_factor", "data_scale", "local_attn_scale", "epsilon_1", "epsilon_2",
)  # fmt: skip
"""Keys for features that work differently here, keys without effect, and keys that enter other values."""

LATER = {
    "adam_beta1": "optimizer.beta1", "adam_beta2": "optimizer.beta2", "lr": "optimizer.learning_rate",
    "ema_rate": "train.ema_decay", "n_batch": "train.batch_size", "warmup_iters": "optimizer.warmup_steps",
    "wd": "loss.l2_weight", "grad_clip": "optimizer.gradient_clip_norm_value",
    "skip_threshold": "optimizer.gradient_skip_threshold", "width": "model.width",
    "custom_width_str": "model.custom_width_str", "block_type": "model.block_type",
    "bottleneck_multiple": "model.bottleneck_multiple", "zdim": "model.zdim",
    "no_bias_above": "model.no_bias_above", "enc_blocks": "model.enc_blocks",
    "dec_blocks": "model.dec_blocks", "n_channels": "data.channels", "image_size": "data.target_res",
    "seed": "run.seed", "checkpoint": "train.checkpoint_activations", "num_heads": "model.attn_heads",
    "iters_per_ckpt": "train.checkpoint_and_eval_interval_in_steps",
    "iters_per_print": "train.logging_interval_in_steps", "data_root": "data.train_data_path",
}  # fmt: skip
"""Keys of the later JAX program, which ignores any other."""

LATER_UNUSED = (
    "attn_res", "run_opt", "model", "dtype", "iters_per_images", "iters_per_save", "vq_res", "codebook_size",
    "uncond_sample", "pre_layer", "gan", "gamma", "contra_resos", "gan_resos", "loss_type", "patch_nce",
    "blocks_per_res", "num_images_visualize", "num_variables_visualize", "split_train", "split_test",
    "dataset", "shuffle_buffer", "tfds_data_dir", "tfds_manual_dir", "logging", "wandb", "save_dir",
    "restore_path", "restore_iter", "seed_init", "seed_sample", "seed_train", "seed_eval",
)  # fmt: skip

_DATA_KEYS = ("train_path", "eval_path", "image_size", "tfrecords")
DATA_SETS = {"cifar10": "cifar-10"}
"""Known sets of tensorflow_datasets, and `data.dataset_source` for each."""

KINDS: dict[str, tuple[Any, str]] = {
    **dict.fromkeys(("image_size", "vq_res"), (int, "a whole number")),
    **dict.fromkeys(
        ("lr", "train_steps", "iter_factor", "train_batch_size", "eval_batch_size", "batch_size_inv_factor",
         "eval_steps", "skip_threshold", "gamma", "width"),
        (int | float, "a number"),
    ),
    **dict.fromkeys(("use_bf16", "space2depth", "pre_layer", "gan", "patch_nce"), (bool, "true or false")),
    **dict.fromkeys(("custom_width_str",), (str, "a text")),
}  # fmt: skip
"""Types of the values that are processed here; the others are checked as options."""


def recognised(config: Mapping[str, Any]) -> bool:
    """Whether a configuration has a key that only Metroplex's programs have."""
    return not {"base_hidden_res", "model_path", "prog_mode", "dec_blocks", "custom_width_str"}.isdisjoint(
        config
    )


def options(config: Mapping[str, Any], name: str = "metroplex") -> Values:
    """`section.option` -> value; a `UserError` names an unknown key of the TensorFlow program, or an
    unsupported value."""
    _check_values(config)
    later = "image_size" in config
    values = {**DEFAULTS, "run.name": name, **(_later(config) if later else _first(config))}
    return tokenizer_options(config, values) if later and is_tokenizer(config) else values


def remarks(config: Mapping[str, Any]) -> list[str]:
    """A line for each setting of a configuration that its options do not express."""
    if "image_size" in config:
        unknown = [key for key in config if key not in {*LATER, *LATER_UNUSED}]
        return [f"'{key}' is unknown and left out" for key in unknown] + _data_remarks(config.get("dataset"))
    steps = config.get("eval_steps")
    if (config.get("eval_dataset_size") if steps is None else steps) == 0:
        return ["no evaluation (eval_steps 0) cannot be had here: every checkpoint comes with a validation"]
    data = config.get("dataset")
    unknown = [key for key in data if key not in _DATA_KEYS] if isinstance(data, Mapping) else []
    return [f"'dataset.{key}' is unknown and left out" for key in unknown]


def _data_remarks(name: Any) -> list[str]:
    """Remarks about the later program's data set, which is one of tensorflow_datasets."""
    if name is None or str(name) in DATA_SETS:
        return []
    remark = f"the data set {shorten(name)} of tensorflow_datasets has no counterpart here: "
    return [remark + "write its pictures to a folder and give data.train_data_path and data.val_data_path"]


def cfg_text(values: Values, header: str) -> str:
    """Text of a `.cfg` file that begins with `header` in comments."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    sections = dict.fromkeys(option.partition(".")[0] for option in values)
    for section in sections:
        lines += ["", f"[{section}]"]
        lines += [
            f"{option.partition('.')[2]} = {_text(option, value)}"
            for option, value in values.items()
            if option.startswith(f"{section}.")
        ]
    return "\n".join(lines) + "\n"


def _text(option: str, value: Any) -> str:
    """A value in `.cfg` syntax: the run's name without quotes, other text with them."""
    return value if option == "run.name" else repr(value)


def _check_values(config: Mapping[str, Any]) -> None:
    for key, (kind, words) in KINDS.items():
        value = config.get(key)
        if value is not None and value is not False and not isinstance(value, kind):
            raise UserError(f"JSON key '{key}' must be {words}, not {shorten(value)}")
    for key in ("space2depth", "pre_layer"):
        if config.get(key):
            raise UserError(f"JSON key '{key}' is true, which is not supported here: set it to false")


def _first(config: Mapping[str, Any]) -> Values:
    """The TensorFlow program: Adam with epsilon outside the bias correction, a
    rate that decays to a tenth."""
    special: dict[str, Callable[[Any], Values]] = {
        "dataset": _dataset,
        "optimizer": _optimizer,
        "lr_decay": lambda _: {},
        "use_bf16": lambda value: {"train.precision": "bfloat16" if value else "float32"},
    }
    known = {*SAME, *RENAMED, *UNUSED, *special}
    values: Values = {
        "optimizer.type": "AdamTF", "optimizer.epsilon": 1e-6, "optimizer.learning_rate": 3e-4,
        "model.width": 384, "model.transformer": True, "model.truncate_pixels": True,
        "train.total_train_steps": 40000, "train.batch_size": 256,
    }  # fmt: skip
    for key, value in config.items():
        if key in RENAMED:
            values[RENAMED[key]] = value
        elif key in SAME:
            values[f"model.{key}"] = _model_value(key, value)
        elif key not in known:
            raise UserError(f"JSON key '{key}' is unknown{did_you_mean(key, sorted(known))}")
    for key, options_of in special.items():
        if key in config:
            values |= options_of(config[key])
    if values.get("model.prog_mode") is not None and config.get("transformer") is None:
        values["model.transformer"] = False
    values |= _schedule(config, values)
    values |= _batches(config, values)
    return values | _decay(values)


def _schedule(config: Mapping[str, Any], values: Values) -> Values:
    """Number of training steps, over which the rate decays to a tenth."""
    steps = int(values["train.total_train_steps"] * (config.get("iter_factor") or 1))
    scheme = config.get("lr_decay", "cosine")
    scheme = scheme if scheme in ("cosine", "linear") else "constant"
    return {
        "train.total_train_steps": steps,
        "optimizer.decay_steps": steps,
        "optimizer.learning_rate_scheme": f"{scheme}_times_warmup",
        "optimizer.min_learning_rate": values["optimizer.learning_rate"] / 10,
    }


def _batches(config: Mapping[str, Any], values: Values) -> Values:
    """Batch sizes, and the number of pictures to evaluate; `remarks` mentions the case of none."""
    size: int = values["train.batch_size"]
    divisor: float = config.get("batch_size_inv_factor") or 1
    evaluated = int(values.get("val.batch_size", size) / divisor)
    of_set = values.get("val.n_samples_for_validation") or DEFAULTS["val.n_samples_for_validation"]
    steps = config.get("eval_steps")
    return {
        "train.batch_size": int(size / divisor),
        "val.batch_size": evaluated,
        "val.n_samples_for_validation": steps * evaluated if steps else of_set,
        "synthesis.batch_size": values.get("synthesis.batch_size", evaluated),
    }


def _model_value(key: str, value: Any) -> Any:
    """Option values for false and null in JSON."""
    match key:
        case "prog_mode":
            return None if value is False else value
        case "shared_sigma":
            return value or "none"
        case "abs_enc":
            return "start" if value == "start" else "encoder" if value else "none"
        case "init_std" | "init_scale" | "outer_width" | "exp_scale":
            return value or 0
        case "enc_blocks" | "dec_blocks" | "custom_width_str":
            return value or ""
        case _:
            return value


def _dataset(value: Any) -> Values:
    """The original reads TFRecords or the files that match a pattern."""
    if not isinstance(value, Mapping):
        raise UserError(f"JSON key 'dataset' must be an object, not {shorten(value)}")
    return {
        "data.dataset_source": "tfrecords" if value.get("tfrecords") else "glob",
        "data.target_res": value.get("image_size", 32),
        "data.train_data_path": value.get("train_path", ""),
        "data.val_data_path": value.get("eval_path", ""),
        "data.synthesis_data_path": value.get("eval_path", ""),
    }


def _optimizer(value: str) -> Values:
    if value == "adam":
        return {}
    if value == "decoy":
        return {"optimizer.learning_rate": 0.0}
    raise UserError(
        f"JSON key 'optimizer': '{value}' is not supported by the original: set 'adam' or 'decoy'"
    )


def _later(config: Mapping[str, Any]) -> Values:
    """The JAX program: tanh GELU, gain and bias, absolute errors, beta2 0.9."""
    values: Values = {
        "model.gelu": "gelu_tanh", "model.final_fn": True, "model.likelihood": "absolute", "model.zdim": 16,
        "model.legacy_row_attention": True, "optimizer.beta2": 0.9,
        "optimizer.gradient_skip_threshold": 400.0, "train.batch_size": 32,
    }  # fmt: skip
    values |= {LATER[key]: value for key, value in config.items() if key in LATER}
    if known := DATA_SETS.get(str(config.get("dataset"))):
        values["data.dataset_source"] = known
    values["model.attn_res"] = sides(config, "attn_res")
    values["train.precision"] = config.get("dtype") or "float32"
    if values["train.precision"] not in ("float32", "bfloat16"):
        raise UserError(f"JSON key 'dtype': '{config['dtype']}' is neither 'float32' nor 'bfloat16'")
    if values["optimizer.gradient_skip_threshold"] == -1:
        values |= {"optimizer.gradient_skip": False, "optimizer.gradient_skip_threshold": 0.0}
    return values | _decay(values)


def _decay(values: Values) -> Values:
    return {"loss.use_weight_decay": True} if values.get("loss.l2_weight") else {}
