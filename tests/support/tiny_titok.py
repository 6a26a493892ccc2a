"""The smallest TiToks on the digits: 8x8 pixels to 5 tokens, trained in one stage or in two."""

from tests.support import sections

TINY = sections.merged("""
[run]
family = vqgan
name = titok

[model]
architecture = 'titok'
latent_tokens = 5
encoder_patch = 4
encoder_width = 16
encoder_layers = 1
encoder_heads = 2
decoder_patch = 2
decoder_width = 16
decoder_layers = 1
decoder_heads = 2
embedding_dim = 4
num_embeddings = 16

[loss]
reconstruction = 'l2'

[optimizer]
type = 'Adam'
learning_rate = 2e-3

[synthesis]
synthesis_mode = 'reconstruction'
n_samples = 10
""")
FIRST = ("run.name=first", "model.decoder_output=proxy_codes", "model.num_proxy_embeddings=16")
SECOND = (
    "run.name=second", "model.decoder_output=proxy_pixels", "model.num_proxy_embeddings=16",
    "model.hidden_channels=8", "model.channel_mult=[1,2]", "model.num_res_blocks=1", "model.z_channels=4",
    "model.norm_groups=4",
)  # fmt: skip
"""Overrides of the two stages; the other tokenizer is that of `tiny_vqgan`."""

write_tiny, tiny = sections.writer_and_options("titok.cfg", TINY)
