"""Training configurations of open-muse are converted: every option with a
counterpart, none silently dropped."""

import pytest

from dioscuri.cli.convert import main as convert
from dioscuri.errors import UserError
from dioscuri.families.maskgit.transformers import make_plan
from dioscuri.hparams import load
from dioscuri.importers.open_muse_yaml import DIRECT, resolved

IMAGENET = """
wandb:
  entity: somebody
experiment:
  name: imagenet
  output_dir: ${experiment.name}
  save_every: 2000
  log_every: 50
  generate_every: ???
model:
  vq_model:
    type: maskgit_vqgan
    pretrained: openMUSE/maskgit-vqgan-imagenet-f16-256
  transformer:
    vocab_size: 2048
    hidden_size: 768
    num_hidden_layers: 24
    num_attention_heads: 16
    intermediate_size: 3072
    codebook_size: 1024
    num_vq_tokens: 256
    num_classes: 1000
    max_position_embeddings: 264
    layer_norm_eps: 1e-6
    use_bias: False
    hidden_dropout: 0.0
    attention_dropout: 0.0
  gradient_checkpointing: True
  enable_xformers_memory_efficient_attention: True
dataset:
  params:
    train_shards_path_or_url: pipe:somewhere
    batch_size: ${training.batch_size}
  preprocessing:
    resolution: 256
    random_flip: True
optimizer:
  name: fused_adamw
  params:
    learning_rate: 1e-4
    scale_lr: False
    beta1: 0.9
    beta2: 0.96
    weight_decay: 0.045
    epsilon: 1e-8
lr_scheduler:
  scheduler: cosine
  params:
    learning_rate: ${optimizer.params.learning_rate}
    warmup_steps: 500
mask_schedule:
  schedule: pow2
training:
  gradient_accumulation_steps: 2
  batch_size: 64
  mixed_precision: bf16
  use_ema: True
  ema_decay: 0.99
  ema_update_after_step: 10
  ema_update_every: 2
  seed: 9
  max_train_steps: 10000
  min_masking_rate: 0.5
  label_smoothing: 0.1
  max_grad_norm: 2.5
  cond_dropout_prob: 0.1
  guidance_scale: 3.0
  generation_timesteps: 9
  eval_mask_ratios: [0.2, 0.8]
"""


def run(tmp_path, text, *words):
    (tmp_path / "train.yaml").write_text(text)
    out = tmp_path / "out.cfg"
    convert([str(tmp_path / "train.yaml"), "--to-cfg", str(out), *words])
    return load(out)


def test_every_option_arrives(tmp_path, capsys):
    hparams = run(tmp_path, IMAGENET)
    model, data, optimizer, train, loss = (
        getattr(hparams, name) for name in ("model", "data", "optimizer", "train", "loss")
    )
    assert (model.architecture, model.vocab_size, model.num_hidden_layers) == ("maskgit", 2048, 24)
    assert (model.layer_norm_eps, model.num_classes) == (1e-6, 1000)
    assert (data.grid, data.codebook_size, data.target_res) == (16, 1024, 256)
    assert (data.random_horizontal_flip, data.labels) == (True, True)
    assert (optimizer.type, optimizer.learning_rate, optimizer.beta2) == ("AdamW", 1e-4, 0.96)
    assert (optimizer.learning_rate_scheme, optimizer.warmup_steps) == ("half_cosine", 500)
    assert (optimizer.decay_start, optimizer.decay_steps, optimizer.epsilon) == (500, 9500, 1e-8)
    assert (optimizer.clip_gradient_norm, optimizer.gradient_clip_norm_value) == (True, 2.5)
    assert (train.batch_size, train.accumulation_steps, train.precision) == (128, 2, "bfloat16")
    assert (train.total_train_steps, train.checkpoint_activations) == (10000, True)
    assert (train.checkpoint_and_eval_interval_in_steps, train.logging_interval_in_steps) == (2000, 50)
    assert (train.ema_decay, train.ema_update_after, train.ema_update_every) == (0.99, 10, 2)
    assert train.ema_warmup == "count"
    assert (loss.weight_decay, loss.min_masking_rate, loss.label_smoothing) == (0.045, 0.5, 0.1)
    assert (loss.mask_schedule, loss.cond_dropout_prob) == ("pow2", 0.1)
    assert (hparams.synthesis.guidance_scale, hparams.synthesis.steps) == (2.0, 9)
    assert hparams.synthesis.sampling_schedule == "pow2"
    assert (hparams.run.name, hparams.run.seed, hparams.val.mask_ratios) == ("imagenet", 9, (0.2, 0.8))
    make_plan(model, data.grid, data.codebook_size)
    assert "is unknown" not in capsys.readouterr().out
    assert "somewhere" not in (tmp_path / "out.cfg").read_text()


def test_every_direct_option_exists():
    hparams = load("egs/maskgit/published.cfg")
    for name in DIRECT.values():
        section, option = name.split(".")
        assert hasattr(getattr(hparams, section), option), name


def test_uvit(tmp_path):
    text = """
model:
  architecture: uvit
  transformer: {hidden_size: 64, block_out_channels: [32], block_num_heads: 2, in_channels: 16,
                num_hidden_layers: 2, num_attention_heads: 4, vocab_size: 40, codebook_size: 32}
dataset: {preprocessing: {resolution: 512}}
training: {mixed_precision: no, use_ema: False}
"""
    hparams = run(tmp_path, text, "train.batch_size=3")
    assert (hparams.model.architecture, hparams.model.block_out_channels) == ("uvit", (32,))
    assert (hparams.data.grid, hparams.data.target_res, hparams.data.codebook_size) == (32, 512, 32)
    assert (hparams.train.precision, hparams.train.ema_decay, hparams.train.batch_size) == ("float32", 0.0, 3)


LEGACY_UVIT = """
model:
  architecture: uvit
  transformer:
    hidden_size: 64
    block_out_channels: [32]
    block_num_heads: [2]
    in_channels: 16
    num_hidden_layers: 2
    num_attention_heads: 4
    vocab_size: 40
    codebook_size: 32
    num_vq_tokens: 64
    add_cross_attention: True
    project_encoder_hidden_states: True
    use_normformer: False
    use_empty_embeds_for_uncond: True
    max_position_embeddings: 256
    num_classes: null
experiment: {project: muse, resume_from_checkpoint: latest}
dataset:
  params: {train_shards_path_or_url: somewhere, num_workers: 4}
  preprocessing: {max_seq_length: 77, resolution: 128}
training: {mixed_precision: fp16, overfit_one_batch: True, use_ema: False}
"""


def test_a_uvit_of_the_older_layout(tmp_path, capsys):
    """0.1.0 refused what the original's U-ViT ignores."""
    hparams = run(tmp_path, LEGACY_UVIT)
    assert (hparams.model.architecture, hparams.model.hidden_size, hparams.data.grid) == ("uvit", 64, 8)
    assert not hparams.model.add_cross_attention
    make_plan(hparams.model, hparams.data.grid, hparams.data.codebook_size)
    output = capsys.readouterr().out
    for name in ("add_cross_attention", "max_position_embeddings", "use_empty_embeds_for_uncond"):
        assert name in output


def test_what_is_dropped_or_changed_is_named(tmp_path, capsys):
    run(tmp_path, LEGACY_UVIT)
    output = capsys.readouterr().out
    for name in (
        "dataset.params.train_shards_path_or_url",
        "dataset.params.num_workers", "experiment.project", "experiment.resume_from_checkpoint",
        "training.overfit_one_batch", "fp16 becomes train.precision='bfloat16'",
    ):  # fmt: skip
        assert name in output
    assert "dataset.preprocessing.resolution" not in output


CAPTIONED = (
    LEGACY_UVIT.replace(
        "somewhere,",
        """somewhere, min_size: 256, max_pwatermark: 0.5,
    min_aesthetic_score: 4.75, max_pnsfw: 0.1, require_marked_as_not_getty: True,""",
    )
    .replace("resolution: 128", "resolution: 128, center_crop: False, random_flip: True")
    .replace(
        "experiment:", "  text_encoder: {type: clip, pretrained: openai/clip-vit-large-patch14}\nexperiment:"
    )
)


def test_filters_crops_and_captions_are_kept(tmp_path, capsys):
    data = run(tmp_path, CAPTIONED).data
    assert (data.min_size, data.max_pwatermark, data.min_aesthetic_score, data.max_pnsfw) == (
        256,
        0.5,
        4.75,
        0.1,
    )
    assert (data.require_marked_as_not_getty, data.require_marked_as_ok_by_spawning) == (True, False)
    assert (data.dataset_source, data.random_crop, data.random_horizontal_flip) == ("webdataset", True, True)
    assert data.text_length == 77
    output = capsys.readouterr().out
    assert (
        "data.text_encoder_path takes the folder of the text encoder 'openai/clip-vit-large-patch14'"
        in output
    )
    assert not [name for name in ("min_size", "watermark", "center_crop", "max_seq_length") if name in output]


def test_a_central_crop_of_class_pictures_needs_no_other_source(tmp_path):
    more = "    random_flip: True\n    center_crop: True\n    max_seq_length: 16"
    data = run(tmp_path, IMAGENET.replace("    random_flip: True", more)).data
    assert (data.random_crop, data.text_length, data.dataset_source) == (False, 0, "tokens")


def test_advice_that_is_followed_is_not_repeated(tmp_path):
    text = LEGACY_UVIT.replace("num_vq_tokens: 64", "num_vq_tokens: 200")
    with pytest.raises(UserError, match=r"set the grid, such as data\.grid=32 data\.target_res=512"):
        run(tmp_path, text)
    hparams = run(tmp_path, text, "data.grid=32", "data.target_res=512")
    assert (hparams.data.grid, hparams.data.target_res) == (32, 512)


def test_unknown_keys_are_named(tmp_path, capsys):
    run(tmp_path, IMAGENET + "  new_trick: 3\n")
    assert "'training.new_trick' is unknown and left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "hidden_size: 768",
            "hiden_size: 768",
            "option 'hiden_size' is unknown (did you mean 'hidden_size'?)",
        ),
        ("${training.batch_size}", "${training.batch}", "${training.batch} refers to nothing"),
        ("seed: 9", "seed: ${training.seed}", "references are circular"),
        ("fused_adamw", "sgd", "optimizer.name 'sgd' is not supported"),
        ("scheduler: cosine", "scheduler: step", "'step' is not supported"),
        ("seed: 9", "use_stochastic_code: True", "use_stochastic_code is not supported"),
        ("  transformer:", "  transfomer:", "is not a complete configuration of open-muse"),
        ("seed: 9", "seed: [", "is not valid yaml"),
        ("seed: 9", "seed: !!python/object/apply:os.getcwd []", "is not valid yaml"),
        ("seed: 9", "seed: nine", "must be a whole number"),
        ("embeddings: 264", "embeddings: 256", "max_position_embeddings 256 is too small"),
        ("num_vq_tokens: 256", "num_vq_tokens: 200", "num_vq_tokens 200 is not a square"),
    ],
)
def test_mistakes_are_reported(tmp_path, old, new, message):
    with pytest.raises(UserError) as caught:
        run(tmp_path, IMAGENET.replace(old, new))
    assert message in str(caught.value)
    assert not (tmp_path / "out.cfg").exists()


@pytest.mark.parametrize("kind", ["text", "list", "mapping"])
def test_references_that_double_at_every_step_are_refused(kind):
    """0.1.0 continued until memory was full."""
    twice = {"text": "${%s}${%s}", "list": ["${%s}", "${%s}"], "mapping": {"x": "${%s}", "y": "${%s}"}}[kind]

    def fill(value, name):
        if isinstance(value, dict):
            return {key: fill(entry, name) for key, entry in value.items()}
        return [fill(e, name) for e in value] if isinstance(value, list) else value.replace("%s", name)

    bomb = {"a0": "x" * 1000} | {f"a{i}": fill(twice, f"a{i - 1}") for i in range(1, 18)}
    with pytest.raises(UserError, match="references expand to too much data"):
        resolved(bomb, "here")


def test_references_keep_the_type_and_stand_inside_text():
    config = {"a": {"b": 3}, "c": "${a.b}", "d": "x-${a.b}-${c}", "e": ["${a}"], "f": "???"}
    assert resolved(config, "here") == {"a": {"b": 3}, "c": 3, "d": "x-3-3", "e": [{"b": 3}], "f": "???"}
