"""Shapes, without the batch axis, of the uniform noise of every dropout in the masked token transformers.

Names are those of modules; those that end in `attention` are for attention probabilities, (heads, queries,
keys). `text_length` is the number of text tokens in cross-attention.
"""

from collections.abc import Callable

from dioscuri.families.maskgit.plan import TransformerPlan

Shapes = dict[str, tuple[int, ...]]


def maskgit(plan: TransformerPlan, text_length: int) -> Shapes:
    """Dropout of embeddings and attentions, and inside feed-forward layers."""
    S, C, N = plan.length, plan.options.hidden_size, plan.options.num_attention_heads
    shapes: Shapes = {} if plan.options.use_conv_in_out else {"embed": (S, C)}
    for i in range(plan.options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        shapes[f"{name}.attention"] = (N, S, S)
        if plan.options.add_cross_attention:
            shapes[f"{name}.crossattention"] = (N, S, text_length)
        shapes[f"{name}.ffn"] = (S, plan.inner)
    return shapes


def uvit(plan: TransformerPlan, text_length: int) -> Shapes:
    """Dropout of attentions, and inside convolutional blocks and feed-forward layers."""
    options, side, S = plan.options, plan.hidden_grid, plan.length
    shapes: Shapes = {}
    for name in ("down_blocks.0", "up_blocks.0"):
        for j in range(options.num_res_blocks):
            width = 4 * options.block_out_channels[0]
            shapes[f"{name}.res_blocks.{j}.channelwise"] = (side, side, width)
            for attention in ("attention", "crossattention"):
                shapes[f"{name}.attention_blocks.{j}.{attention}"] = (options.block_num_heads, S, text_length)
    for i in range(options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        shapes[f"{name}.attention"] = (options.num_attention_heads, S, S)
        shapes[f"{name}.crossattention"] = (options.num_attention_heads, S, text_length)
        shapes[f"{name}.ffn"] = (S, plan.inner)
    return shapes


def google(plan: TransformerPlan, text_length: int) -> Shapes:  # noqa: ARG001 - no text
    """Dropout of embeddings and attentions, and of each layer's residual branches."""
    S, C, N = plan.length, plan.options.hidden_size, plan.options.num_attention_heads
    shapes: Shapes = {"embed": (S, C)}
    for i in range(plan.options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        shapes |= {f"{name}.attention": (N, S, S), f"{name}.attention_output": (S, C), f"{name}.ffn": (S, C)}
    return shapes


def halton(plan: TransformerPlan, text_length: int) -> Shapes:  # noqa: ARG001 - no text
    """Dropout of attentions, and inside feed-forward layers."""
    S, N = plan.length, plan.options.num_attention_heads
    shapes: Shapes = {}
    for i in range(plan.options.num_hidden_layers):
        name = f"transformer.layers.{i}"
        shapes |= {f"{name}.attention": (N, S, S), f"{name}.ff": (S, plan.inner)}
    return shapes


def lucidrains(plan: TransformerPlan, text_length: int) -> Shapes:
    """Dropout of attentions, which include a null key, and inside feed-forward layers."""
    S, N = plan.length, plan.options.num_attention_heads
    shapes: Shapes = {}
    for i in range(plan.options.num_hidden_layers):
        name = f"transformer_blocks.layers.{i}"
        shapes[f"{name}.attention"] = (N, S, S + 1)
        shapes[f"{name}.crossattention"] = (N, S, text_length + 1)
        shapes[f"{name}.ff"] = (S, plan.inner)
    return shapes


def none(plan: TransformerPlan, text_length: int) -> Shapes:  # noqa: ARG001 - a table's signature
    """No dropout anywhere."""
    return {}


def groups(plan: TransformerPlan, text_length: int) -> Shapes:  # noqa: ARG001 - no text
    """Dropout of embeddings and attentions, and of each layer's residual branches."""
    S, C, N = plan.length, plan.options.hidden_size, plan.options.num_attention_heads
    shapes: Shapes = {"embed": (S, C)}
    for i in range(plan.options.num_hidden_layers):
        name = f"layers.{i}"
        shapes |= {f"{name}.attention": (N, S, S), f"{name}.attention_output": (S, C), f"{name}.ffn": (S, C)}
    return shapes


DROPOUTS: dict[str, Callable[[TransformerPlan, int], Shapes]] = {
    "maskgit": maskgit,
    "uvit": uvit,
    "google": google,
    "halton": halton,
    "lucidrains": lucidrains,
    "lfqbert": groups,
    "bert": groups,
    "meissonic": none,
    "imagebert": google,
    "uvitbert": none,
    "maskgen": none,
}
