"""Option sections that every family shares. Original option names are those of Efficient-VDVAE."""

from dataclasses import dataclass

from dioscuri.errors import UserError
from dioscuri.hparams.picture_files import PictureFiles
from dioscuri.hparams.random_maps import RandomMaps
from dioscuri.hparams.schema import option


@dataclass(frozen=True, kw_only=True)
class Run:
    """`[run]`: identity, seed and devices of a run."""

    family: str = option("hierarchical_vae", doc="model family; selects the option schema")
    name: str = option(doc="run name; the run is stored in logs-<name>/")
    root: str = option(
        "",
        path=True,
        doc="folder of the runs; empty: DIOSCURI_RUNS, else the twin's folder in a clone, or the working "
        "directory of an installed package",
    )
    seed: int = option(low=0, high=2**63 - 1, doc="seed of initialisation, noise, shuffling and augmentation")
    num_gpus: int = option(low=0, high=2**16, doc="accelerators to use; 0: the CPU")
    num_cpu_devices: int = option(
        0,
        low=0,
        high=256,
        twin="jax",
        needs=("num_gpus", (0,)),
        doc="JAX only, without accelerators: devices that the CPU is split into, which share each batch; 0: "
        "JAX's setting, usually one",
    )
    timeout: int = option(
        600, low=1, high=10**6, doc="several processes: seconds to wait for one that does not start or answer"
    )
    num_cpus: int = option(low=1, high=2**12, doc="upper bound for image-decoding threads")
    max_allowed_checkpoints: int = option(
        low=1, high=10**6, doc="newest checkpoints to keep besides the best one"
    )
    wandb: bool = option(False, doc="also log to Weights & Biases")
    wandb_project: str = option("dioscuri", needs=("wandb", (True,)), doc="Weights & Biases project")


@dataclass(frozen=True, kw_only=True)
class Data(PictureFiles, RandomMaps):
    """`[data]`: where pictures come from and what they look like."""

    dataset_source: str = option(doc="name of a data source, see dioscuri/data/sources.py")
    train_data_path: str | tuple[str, ...] = option(
        path=True,
        doc="training pictures: a folder, or a file for 'npy'; for 'webdataset', 'tfrecords' and 'glob' also "
        "a pattern with *, ?, [...], ** and braces such as {00..99}, or a list of paths",
    )
    val_data_path: str | tuple[str, ...] = option(path=True, doc="validation pictures")
    synthesis_data_path: str | tuple[str, ...] = option(
        path=True, doc="test pictures, also used by the synthesis modes"
    )
    dataset_path: str = option(
        "../datasets", path=True, doc="parent folder of prepared mnist/, mnist10k/ and cifar-10/"
    )
    target_res: int = option(
        low=1,
        high=2**24,
        doc="height and width of the model's pictures, including padding; samples per sound",
    )
    frames: int = option(0, low=0, high=2**16, doc="frames per clip; 0: the data are pictures or sounds")
    sample_rate: int = option(0, low=0, high=10**6, doc="sounds: samples per second")
    sample_encoding: str = option(
        "none",
        choices=("none", "mu_law", "linear"),
        doc="sounds: 8 bits companded by the mu-law (ITU-T G.711, continuous form), or 16 linear bits",
    )
    channels: int = option(low=1, high=2**12, doc="channels of a picture")
    num_bits: float = option(low=1, high=16, doc="bit depth of a channel; more than 8 only for linear sounds")
    random_horizontal_flip: bool = option(doc="mirror training pictures with probability 1/2 (never digits)")
    labels: bool = option(False, doc="give the pictures' class labels to the model")
    legacy_crop: bool = option(
        False,
        needs=("dataset_source", ("tfrecords", "glob")),
        doc="'tfrecords' and 'glob': crop the original's box, which is off-centre in pictures that are not "
        "square",
    )
    text_seq_len: int = option(
        0,
        low=0,
        high=2**16,
        needs=("dataset_source", ("tfrecords",)),
        doc="'tfrecords': caption tokens to read; 0: none",
    )
    padding_id: int = option(
        0, low=0, high=2**31 - 1, needs=("text_seq_len", ()), doc="token that pads shorter captions"
    )

    def __post_init__(self) -> None:
        if self.num_bits % 1:
            raise UserError(f"[data] num_bits must be a whole number of bits, not {self.num_bits:g}")
        if self.random_crop and self.legacy_crop:
            raise UserError("[data] random_crop and legacy_crop exclude each other: set one of them to False")
        if self.num_bits > self.depth:
            raise UserError(
                f"[data] num_bits must be at most {self.depth}, the bits of a stored value, not "
                f"{self.num_bits:g}"
            )

    @property
    def depth(self) -> int:
        """Bits of a stored value; `num_bits` are the highest of these."""
        return 16 if self.sample_encoding == "linear" else 8


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """`[optimizer]`: update rule, learning rate, clipping and skipping."""

    type: str = option(
        choices=("Adamax", "Adam", "AdamW", "RAdam", "Radam", "Lion", "AdamTF"),
        doc="update rule; weight decay is always decoupled, so Adam and AdamW are the same; AdamTF adds "
        "epsilon before the bias correction, as TensorFlow 1 does",
    )
    learning_rate_scheme: str = option(
        choices=(
            "cosine",
            "constant",
            "exponential",
            "noam",
            "constant_with_warmup",
            "linear",
            "half_cosine",
            "cosine_with_restarts",
            "polynomial",
            "cosine_times_warmup",
            "linear_times_warmup",
            "constant_times_warmup",
        ),
        doc="schedule; from 'constant_with_warmup' to 'polynomial' as Hugging Face computes them; the last "
        "three decay from step 0, multiplied by the warm-up (Metroplex)",
    )
    learning_rate: float = option(low=0, high=100, doc="base learning rate")
    warmup_steps: float = option(low=0, doc="steps of linear warm-up")
    decay_steps: int = option(low=1, doc="steps from decay_start to min_learning_rate")
    decay_start: int = option(low=0, doc="step at which the decay begins")
    min_learning_rate: float = option(low=0, high=100, doc="minimum of the schedule")
    decay_rate: float = option(low=0, high=1, doc="factor per decay_steps of the exponential schedule")
    num_cycles: float = option(
        1.0,
        low=0,
        high=10**6,
        needs=("learning_rate_scheme", ("half_cosine", "cosine_with_restarts")),
        doc="half_cosine: half periods in decay_steps; cosine_with_restarts: restarts",
    )
    power: float = option(
        1.0,
        low=0,
        high=100,
        needs=("learning_rate_scheme", ("polynomial",)),
        doc="exponent of the polynomial schedule",
    )
    beta1: float = option(low=0, high=1, doc="decay of the first moment")
    beta2: float = option(low=0, high=1, doc="decay of the second moment or infinity norm")
    epsilon: float = option(low=0, high=1, doc="added to the denominator")
    clip_gradient_norm: bool = option(doc="clip the global gradient norm")
    gradient_clip_norm_value: float = option(low=0, high=1e38, doc="norm to clip to")
    gradient_skip: bool = option(
        doc="skip updates whose gradient norm reaches the threshold or is not finite"
    )
    gradient_skip_threshold: float = option(low=0, high=1e38, doc="norm at which an update is skipped")
    max_skips_in_row: int = option(
        50,
        low=1,
        needs=("gradient_skip", (True,)),
        doc="stop the run after this many skipped updates in a row",
    )
    legacy_torch_cosine: bool = option(
        False,
        needs=("learning_rate_scheme", ("cosine",)),
        doc="reproduce the original's wrong cosine curve (golden cases only)",
    )

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise UserError(f"[optimizer] {name} must be below 1: otherwise the moment never changes")
        decays = self.learning_rate_scheme not in ("constant", "noam", "constant_with_warmup")
        if (
            self.learning_rate_scheme not in ("constant", "noam")
            and self.min_learning_rate > self.learning_rate > 0
        ):
            raise UserError(
                f"[optimizer] min_learning_rate {self.min_learning_rate:g} must not be more than "
                f"learning_rate {self.learning_rate:g}"
            )
        decays = decays and not self.learning_rate_scheme.endswith("_times_warmup")
        if decays and self.warmup_steps > self.decay_start:
            raise UserError(
                f"[optimizer] warmup_steps {self.warmup_steps:g} must not be more than "
                f"decay_start {self.decay_start}"
            )


@dataclass(frozen=True, kw_only=True)
class Train:
    """`[train]`: length, batch, averaging, precision and memory."""

    total_train_steps: int = option(low=1, doc="batches to train on, including skipped updates")
    time_limit_in_seconds: float = option(
        0.0,
        low=0,
        doc="seconds after which training ends, with a validation and a report; validations and checkpoints "
        "do not count; read every logging_interval_in_steps batches; 0: no limit",
    )
    time_limit_clock: str = option(
        "wall",
        choices=("wall", "cpu"),
        needs=("time_limit_in_seconds", ()),
        doc="wall: seconds that pass; cpu: seconds that all threads of the first process compute, which "
        "depend less on what else the machine does",
    )
    batch_size: int = option(low=1, high=2**20, doc="global batch size over all devices")
    ema_decay: float = option(low=0, high=1, doc="decay of the exponential moving average of the weights")
    ema_warmup: str = option(
        "none",
        choices=("none", "count", "power"),
        doc="smaller decay at first; count: (1 + k) / (10 + k) after k updates; power: "
        "1 - (1 + k / ema_inv_gamma)^-ema_power",
    )
    ema_update_after: int = option(
        0,
        low=0,
        needs=("ema_warmup", ()),
        doc="with a warm-up: number of first updates in which the average copies the weights",
    )
    ema_update_every: int = option(1, low=1, doc="weight updates per update of the average")
    ema_inv_gamma: float = option(
        1.0, low=1e-9, needs=("ema_warmup", ("power",)), doc="parameter of the warm-up 'power'"
    )
    ema_power: float = option(
        2 / 3, low=0, high=100, needs=("ema_warmup", ("power",)), doc="parameter of the warm-up 'power'"
    )
    ema_min_decay: float = option(
        0.0, low=0, high=1, needs=("ema_warmup", ()), doc="minimum decay after the warm-up has begun"
    )
    resume_from_ema: bool = option(doc="on resume, start from the averaged weights")
    logging_interval_in_steps: int = option(low=1, doc="steps between two readings of the metrics")
    checkpoint_and_eval_interval_in_steps: int = option(
        low=1, doc="steps between two checkpoints and validations"
    )
    stabilizer: str = option(
        "off",
        choices=("off", "nan"),
        doc="nan: restore the newest copy of weights and moments if the loss is not finite; checks every "
        "stabilizer_interval steps, so optimizer.max_skips_in_row must be larger",
    )
    stabilizer_interval: int = option(
        1000, low=1, needs=("stabilizer", ("nan",)), doc="steps between two copies of weights and moments"
    )
    precision: str = option(
        "float32", choices=("float32", "bfloat16", "float64"), doc="precision of the network"
    )
    compile: bool = option(False, twin="torch", doc="torch only: compile the network")
    checkpoint_activations: bool = option(False, doc="recompute blocks in the backward pass to save memory")
    accumulation_steps: int = option(1, low=1, high=2**20, doc="micro-batches per batch, to save memory")
    scan_blocks: bool = option(
        False, twin="jax", doc="JAX only: scan runs of equal blocks (accelerators; slow on CPU)"
    )
    shard: str = option(
        "none",
        choices=("none", "optimizer", "parameters"),
        doc="several devices: what they split among them between steps; 'optimizer': moments, average "
        "and master weights, so that parameters are gathered once a step; 'parameters': a block's parameters "
        "are also gathered when it runs, forward and backward, and not kept",
    )
    shard_devices: int = option(
        0,
        low=0,
        high=2**20,
        needs=("shard", ("optimizer", "parameters")),
        doc="with shard: devices that hold one copy of the state, such as those of one machine, a divisor of "
        "all; only gradients travel between copies; 0: one copy on all devices",
    )

    def __post_init__(self) -> None:
        if self.shard_devices == 1:
            raise UserError(
                "[train] shard_devices is 1, but one device shares with none: set train.shard=none, or "
                "shard_devices to 2 or more, or to 0 for all devices"
            )


@dataclass(frozen=True, kw_only=True)
class Val:
    """`[val]`: validation during training."""

    n_samples_for_validation: int = option(low=1, doc="number of validation pictures, at most the whole set")
    batch_size: int = option(low=1, high=2**20, doc="global batch size")
