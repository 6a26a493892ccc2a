"""The smallest tokenizer, with a discriminator, on the digits: 8x8 pixels to 4x4 tokens."""

from tests.support import sections

TINY = sections.merged("""
[run]
family = vqgan

[model]
architecture = 'maskgit'
channel_mult = [1, 2]
num_res_blocks = 1
norm_groups = 4
z_channels = 4
embedding_dim = 4
num_embeddings = 16
hidden_channels = 8

[discriminator]
type = 'patchgan'
num_layers = 1
ndf = 8

[loss]
disc_start = 2
disc_weight = 0.5

[optimizer]
type = 'Adam'
learning_rate = 2e-3
beta1 = 0.5
beta2 = 0.9

[synthesis]
synthesis_mode = 'reconstruction'
n_samples = 10
""")
AVERAGED = sections.merged(TINY, "[model]\nquantizer = 'ema'")
"""Its codebook holds moving averages."""

write_tiny, tiny = sections.writer_and_options("tiny.cfg", TINY)
