"""The smallest SUNDAE: an hourglass on 4x4 tokens of 16 codes, those of the tiny tokenizer."""

from functools import partial

from tests.support import engines, sections
from tests.support.tiny_maskgit import TOKENS

TINY = sections.merged(
    TOKENS,
    """
[run]
family = sundae

[model]
dim = 16
depth = (1, 1, 1)
shorten_factor = 4
nb_heads = 2
dim_head = 8

[loss]
unroll_steps = 2

[synthesis]
steps = 5
min_steps = 1
""",
)

write_tiny, tiny = sections.writer_and_options("tiny_sundae.cfg", TINY)
make_engine = partial(engines.make_engine, options=tiny)
