"""Parameters of the generators of 1-D tokens: TiTok's (Yu et al. 2024) and MaskGen (Kim et al. 2025).

Names and shapes are the original's, except for ImageBert, which has those of `tables.bert`, and for
positions (`dioscuri/importers/titok_generators.py` translates). The original's truncated normal values are
cut at 100 standard deviations, so they are normal.
"""

from collections.abc import Callable

from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.tables import affine, bert, dense, embedding
from dioscuri.plans.parameters import ZEROS, Init, Parameter, Table


def imagebert(plan: TransformerPlan) -> Table:
    """TiTok's `ImageBert`: a BERT with a token type, and logits directly from its states."""
    C, init = plan.options.hidden_size, Init("normal", plan.options.initializer_range)
    table = bert(plan, init) | embedding("embed.token_type_embeddings", 2, C, init)
    return table | dense("lm_head", C, plan.outputs, bias=True, init=init)


def uvitbert(plan: TransformerPlan) -> Table:
    """TiTok's `UViTBert`: blocks with skip connections, as in U-ViT (Bao et al. 2023)."""
    C, init = plan.options.hidden_size, Init("normal", plan.options.initializer_range)
    table = embedding("embeddings", plan.vocab_size, C, init)
    table |= embedding("pos_embed", plan.positions, C, init)
    for i in range(plan.options.num_hidden_layers // 2):
        table |= _uvit_block(f"in_blocks.{i}", plan, init)
        table |= _uvit_block(f"out_blocks.{i}", plan, init)
        table |= dense(f"out_blocks.{i}.skip_linear", 2 * C, C, bias=True, init=init)
    table |= _uvit_block("mid_block", plan, init) | affine("norm", C)
    return table | dense("lm_head", C, plan.outputs, bias=True, init=init)


def maskgen(plan: TransformerPlan) -> Table:
    """`MaskGen_VQ`: joint attention of tokens and text, as in Stable Diffusion 3 (Esser et al. 2024)."""
    options, C, init = plan.options, plan.options.hidden_size, Init("normal", plan.options.initializer_range)
    table = embedding("embeddings", plan.vocab_size, C, init)
    table |= embedding("pos_embed", plan.positions, C, init)
    table |= _undecayed(dense("text_embed_proj", options.encoder_hidden_size, C, bias=True, init=init))
    table |= dense("cond_pooled_proj", plan.cond_inputs, C, bias=True, init=init)
    for i in range(options.num_hidden_layers):
        table |= _joint_block(f"blocks.{i}", plan, init, last=i == options.num_hidden_layers - 1)
    table |= _undecayed(dense("norm.linear", C, 2 * C, bias=True, init=ZEROS))
    if options.weight_tying and plan.outputs == plan.codebook_size:
        return table
    return table | dense("lm_head", C, plan.outputs, bias=True, init=init)


def _uvit_block(name: str, plan: TransformerPlan, init: Init) -> Table:
    C = plan.options.hidden_size
    table = affine(f"{name}.norm1", C) | affine(f"{name}.norm2", C)
    table |= dense(f"{name}.attn.qkv", C, 3 * C, bias=False, init=init)
    table |= dense(f"{name}.attn.proj", C, C, bias=True, init=init)
    table |= dense(f"{name}.mlp.fc1", C, plan.inner, bias=True, init=init)
    return table | dense(f"{name}.mlp.fc2", plan.inner, C, bias=True, init=init)


def _joint_block(name: str, plan: TransformerPlan, init: Init, *, last: bool) -> Table:
    C = plan.options.hidden_size
    text = dense(
        f"{name}.norm1_context.linear", C, (2 if last else 6) * C, bias=True, init=ZEROS if last else init
    )
    table = _undecayed(dense(f"{name}.norm1.linear", C, 6 * C, bias=True, init=init) | text)
    for layer in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
        table |= dense(f"{name}.attn.{layer}", C, C, bias=True, init=init)
    for layer in ("to_out.0", *(() if last else ("to_add_out",))):
        table |= dense(f"{name}.attn.{layer}", C, C, bias=True, init=init)
    for layer in ("ff", *(() if last else ("ff_context",))):
        table |= dense(f"{name}.{layer}.net.0.proj", C, plan.inner, bias=True, init=init)
        table |= dense(f"{name}.{layer}.net.2", plan.inner, C, bias=True, init=init)
    return table


def _undecayed(table: Table) -> Table:
    """The original excludes every tensor whose name contains 'embed' or 'norm' from weight decay."""
    return {name: Parameter(entry.shape, entry.init, decays=False) for name, entry in table.items()}


TABLES: dict[str, Callable[[TransformerPlan], Table]] = {
    "imagebert": imagebert,
    "uvitbert": uvitbert,
    "maskgen": maskgen,
}
