"""The smallest masked token model: 4x4 tokens of 16 codes, those of the tiny tokenizer."""

import numpy as np

from dioscuri.checkpoint import store
from dioscuri.data.tokens import TokenWriter
from dioscuri.families.vqgan import plan as tokenizers
from dioscuri.families.vqgan import tables as tokenizer_tables
from dioscuri.hparams import load
from dioscuri.plans.parameters import initial_values
from tests.support import sections, tiny_vqgan

GRID, CODES, CLASSES = 4, 16, 10

TOKENS = """
[data]
dataset_source = 'tokens'
train_data_path = 'tokens'
val_data_path = 'tokens'
synthesis_data_path = 'tokens'
labels = True
grid = 4
codebook_size = 16

[model]
num_classes = 10

[loss]
weight_decay = 0.01

[optimizer]
type = 'AdamW'
learning_rate = 5e-3
warmup_steps = 5.
beta2 = 0.96
clip_gradient_norm = True
gradient_clip_norm_value = 1.

[val]
report_samples = 6

[synthesis]
synthesis_mode = 'generation'
n_generation_batches = 2
n_samples = 6
"""
"""What models of tokens share."""

TINY = sections.merged(
    TOKENS,
    """
[run]
family = maskgit

[model]
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 2
intermediate_size = 24

[loss]
label_smoothing = 0.1
cond_dropout_prob = 0.2

[synthesis]
steps = 3
guidance_scale = 1.
""",
)

write_tiny, tiny = sections.writer_and_options("tiny_maskgit.cfg", TINY)


def write_tokenizer(folder, *, codes=CODES):
    """Write a run folder of the untrained tiny tokenizer; return its path."""
    path = folder / "logs-tiny"
    path.mkdir(parents=True)
    cfg = tiny_vqgan.write_tiny(path)
    copy = path / "hparams-tiny.cfg"
    cfg.rename(copy)
    copy.write_text(copy.read_text().replace("num_embeddings = 16", f"num_embeddings = {codes}"))
    hparams = load(copy)
    plan = tokenizers.plan_of(hparams)
    weights = initial_values(tokenizer_tables.parameter_table(plan), 1)
    # Far apart, so that pictures have different tokens.
    codebook = tokenizers.codebook_name(plan)
    weights[codebook] = np.random.default_rng(2).normal(0, 1, weights[codebook].shape).astype(np.float32)
    state = {"model": {name: 0 * array for name, array in weights.items()}, "ema": weights}
    store.save(path / "checkpoints", 7, state, {"best": None}, keep=1)
    return path


def example_tokens(n, seed=0):
    """Tokens (n, h, w) that depend on the class (n,), which depends on the index."""
    labels = np.arange(n) % CLASSES
    noise = np.random.default_rng(seed).integers(0, 3, (n, GRID, GRID))
    return (labels[:, None, None] + noise) % CODES, labels


def write_tokens(folder, n=60, *, sha256="none", codes=CODES):
    """Write shards of such tokens, as if made by a tokenizer; return the folder."""
    tokens, labels = example_tokens(n)
    header = {"grid": [GRID, GRID], "codebook_size": codes, "tokenizer": {"sha256": sha256, "run": "tiny"}}
    writer = TokenWriter(folder, header, [f"picture {i}" for i in range(n)], labels, shard_size=32)
    writer.add(tokens)
    writer.finish()
    return folder
