"""Parameters of the masked token transformers: canonical names, shapes and initial values.

Names and shapes are those of the original projects, except for Google's, a flax network, which has names in
the same style (`dioscuri/importers/` translates).
"""

from collections.abc import Callable
from math import sqrt

from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

GLOROT = Init("glorot_uniform")
DEFAULT = Init("fan_in_uniform")
"""PyTorch's default initialisation."""


def dense(name: str, inputs: int, outputs: int, *, bias: bool, init: Init = DEFAULT) -> Table:
    """A dense layer; its bias is initially zero, or PyTorch's default if the matrix is."""
    table = {f"{name}.weight": Parameter((outputs, inputs), init)}
    first = Init("fan_in_uniform", fan_in=inputs) if init == DEFAULT else ZEROS
    return table | ({f"{name}.bias": Parameter((outputs,), first, decays=False)} if bias else {})


def affine(name: str, width: int, *, bias: bool = True) -> Table:
    """Scale and, with `bias`, shift of a norm."""
    table: Table = {f"{name}.weight": Parameter((width,), ONES, decays=False)}
    return table | ({f"{name}.bias": Parameter((width,), ZEROS, decays=False)} if bias else {})


def embedding(name: str, rows: int, width: int, init: Init) -> Table:
    """Rows of an embedding."""
    return {f"{name}.weight": Parameter((rows, width), init, decays=False)}


def geglu(name: str, width: int, inner: int) -> Table:
    """Feed-forward layer of muse-maskgit-pytorch."""
    return {
        f"{name}.0.gamma": Parameter((width,), ONES, decays=False),
        f"{name}.1.weight": Parameter((2 * inner, width), DEFAULT),
        f"{name}.3.gamma": Parameter((inner,), ONES, decays=False),
        f"{name}.4.weight": Parameter((width, inner), DEFAULT),
    }


def maskgit(plan: TransformerPlan) -> Table:
    """open-muse `MaskGitTransformer`: dense layers and embeddings normal, convolutions PyTorch's default."""
    options, init = plan.options, Init("normal", plan.options.initializer_range)
    C, bias = options.hidden_size, options.use_bias
    table = _maskgit_embed(plan, init)
    context = C if options.project_encoder_hidden_states else options.encoder_hidden_size
    if options.add_cross_attention and options.project_encoder_hidden_states:
        table |= dense("encoder_proj", options.encoder_hidden_size, C, bias=bias, init=init)
        table |= _norm("encoder_proj_layer_norm", C, plan)
    for i in range(options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        table |= _norm(f"{name}.attn_layer_norm", C, plan)
        table |= _attention(f"{name}.attention", C, C, bias=bias, init=init)
        if options.use_normformer:
            table |= _norm(f"{name}.post_attn_layer_norm", C, plan)
        if options.add_cross_attention:
            table |= _norm(f"{name}.crossattn_layer_norm", C, plan)
            table |= _attention(f"{name}.crossattention", C, context, bias=bias, init=init)
            if options.use_normformer:
                table |= _norm(f"{name}.post_crossattn_layer_norm", C, plan)
        table |= _gated(f"{name}.ffn", plan, init)
    if options.use_encoder_layernorm:
        table |= _norm("encoder_layer_norm", C, plan)
    return table | _maskgit_head(plan, init)


def _maskgit_embed(plan: TransformerPlan, init: Init) -> Table:
    options, C = plan.options, plan.options.hidden_size
    positions = embedding("embed.position_embeddings", plan.positions, C, init)
    if not options.use_conv_in_out:
        return embedding("embed.word_embeddings", plan.vocab_size, C, init) | positions
    E, patch = options.embedding_size, options.patch_size**2
    table = embedding("embed.embeddings", plan.vocab_size, E, init)
    table |= _norm("embed.layer_norm", E, plan)
    return table | _pointwise("embed.conv", E * patch, C, bias=options.use_bias, init=DEFAULT) | positions


def _maskgit_head(plan: TransformerPlan, init: Init) -> Table:
    options, C, bias = plan.options, plan.options.hidden_size, plan.options.use_bias
    if options.use_conv_in_out:
        E = options.embedding_size
        table = _pointwise("mlm_layer.conv1", C, E * options.patch_size**2, bias=bias, init=DEFAULT)
        table |= _norm("mlm_layer.layer_norm.norm", E, plan)
        return table | _pointwise("mlm_layer.conv2", E, plan.outputs, bias=bias, init=DEFAULT)
    if not options.use_mlm_layer:
        return dense("to_logits", C, plan.outputs, bias=bias, init=init)
    table = dense("mlm_layer.mlm_dense", C, C, bias=bias, init=init)
    if options.use_mlm_layernorm:
        table |= _norm("mlm_layer.mlm_ln", C, plan)
    return table | dense("mlm_layer.to_logits", C, plan.outputs, bias=bias, init=init)


def uvit(plan: TransformerPlan) -> Table:
    """open-muse `MaskGiTUViT_v2`."""
    options, init = plan.options, Init("normal", plan.options.initializer_range)
    C, c, bias = options.hidden_size, options.block_out_channels[0], options.use_bias
    table = dense("encoder_proj", options.encoder_hidden_size, C, bias=bias, init=init)
    table |= _norm("encoder_proj_layer_norm", C, plan)
    table |= embedding(
        "embed.embeddings", plan.vocab_size, options.in_channels, Init("normal", sqrt(1 / plan.vocab_size))
    )
    table |= _norm("embed.layer_norm", options.in_channels, plan)
    table |= _pointwise(
        "embed.conv",
        options.in_channels,
        c,
        bias=bias,
        init=Init("glorot_uniform", options.initializer_range),
    )
    if plan.cond_inputs:
        table |= dense("cond_embed.0", plan.cond_inputs, C, bias=bias, init=init)
        table |= dense("cond_embed.2", C, C, bias=bias, init=init)
    table |= _uvit_side("down_blocks.0", "downsample", plan, init)
    table |= _norm("project_to_hidden_norm", c, plan)
    table |= dense("project_to_hidden", c, C, bias=bias, init=init)
    for i in range(options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        for short, module in (("attn", "attention"), ("crossattn", "crossattention")):
            table |= _norm(f"{name}.{short}_layer_norm", C, plan)
            table |= _attention(f"{name}.{module}", C, C, bias=bias, init=init)
        for module in ("self_attn_adaLN_modulation", "cross_attn_adaLN_modulation", "ffn.adaLN_modulation"):
            table |= _modulation(f"{name}.{module}", C, plan)
        table |= _gated(f"{name}.ffn", plan, init)
    table |= _norm("project_from_hidden_norm", C, plan)
    table |= dense("project_from_hidden", C, c, bias=bias, init=init)
    table |= _uvit_side("up_blocks.0", "upsample", plan, init)
    table |= _pointwise("mlm_layer.conv1", c, options.in_channels, bias=bias, init=ZEROS)
    table |= _norm("mlm_layer.layer_norm.norm", options.in_channels, plan)
    return table | _pointwise("mlm_layer.conv2", options.in_channels, plan.outputs, bias=bias, init=init)


def _uvit_side(name: str, resample: str, plan: TransformerPlan, init: Init) -> Table:
    options = plan.options
    C, c, bias = options.hidden_size, options.block_out_channels[0], options.use_bias
    table: Table = {}
    if options.force_down_up_sample:
        table |= _norm(f"{name}.{resample}.0.norm", c, plan)
        table[f"{name}.{resample}.1.weight"] = Parameter(
            (c, c, 2, 2), init if resample == "downsample" else DEFAULT
        )
        if bias:
            first = ZEROS if resample == "downsample" else Init("fan_in_uniform", fan_in=4 * c)
            table[f"{name}.{resample}.1.bias"] = Parameter((c,), first, decays=False)
    for j in range(options.num_res_blocks):
        table |= _res_block(f"{name}.res_blocks.{j}", plan, init)
        attention = f"{name}.attention_blocks.{j}"
        if c != C:
            table |= dense(f"{attention}.kv_mapper", C, c, bias=bias, init=init)
        for short, module in (("attn", "attention"), ("crossattn", "crossattention")):
            table |= _norm(f"{attention}.{short}_layer_norm", c, plan)
            table |= _attention(f"{attention}.{module}", c, c, bias=bias, init=init)
    return table


def _res_block(name: str, plan: TransformerPlan, init: Init) -> Table:
    c, bias = plan.options.block_out_channels[0], plan.options.use_bias
    table: Table = {f"{name}.depthwise.weight": Parameter((c, 1, 3, 3), init)}
    if bias:
        table[f"{name}.depthwise.bias"] = Parameter((c,), ZEROS, decays=False)
    table |= _norm(f"{name}.norm.norm", c, plan)
    table |= dense(f"{name}.channelwise.0", c, 4 * c, bias=bias, init=init)
    for leaf in ("gamma", "beta"):
        table[f"{name}.channelwise.2.{leaf}"] = Parameter((1, 1, 1, 4 * c), ZEROS, decays=False)
    table |= dense(f"{name}.channelwise.4", 4 * c, c, bias=bias, init=init)
    return table | _modulation(f"{name}.adaLN_modulation", c, plan)


def _modulation(name: str, width: int, plan: TransformerPlan) -> Table:
    if not plan.cond_inputs:
        return {}
    return dense(
        f"{name}.mapper", plan.options.hidden_size, 2 * width, bias=plan.options.use_bias, init=ZEROS
    )


def google(plan: TransformerPlan) -> Table:
    """The MaskGIT paper's network: dense layers and embeddings normal, biases zero."""
    options, init = plan.options, Init("normal", plan.options.initializer_range)
    C = options.hidden_size
    table = bert(plan, init) | dense("mlm_layer.mlm_dense", C, C, bias=True, init=init)
    table |= affine("mlm_layer.mlm_ln", C)
    if plan.outputs != plan.vocab_size:
        return table | dense("mlm_layer.to_logits", C, plan.outputs, bias=True, init=init)
    return table | {"mlm_layer.mlm_bias": Parameter((plan.outputs,), ZEROS, decays=False)}


def bert(plan: TransformerPlan, init: Init) -> Table:
    """Embeddings and layers of a post-LayerNorm BERT."""
    C = plan.options.hidden_size
    table = embedding("embed.word_embeddings", plan.vocab_size, C, init)
    table |= embedding("embed.position_embeddings", plan.positions, C, init)
    table |= affine("embed.embeddings_ln", C)
    for i in range(plan.options.num_hidden_layers):
        name = f"transformer_layers.{i}"
        table |= _attention(f"{name}.attention", C, C, bias=True, init=init)
        table |= affine(f"{name}.attention_output_ln", C)
        table |= dense(f"{name}.intermediate_output", C, plan.inner, bias=True, init=init)
        table |= dense(f"{name}.layer_output", plan.inner, C, bias=True, init=init)
        table |= affine(f"{name}.layer_output_ln", C)
    return table


def halton(plan: TransformerPlan) -> Table:
    """Halton-MaskGIT's `Transformer`; initial values as in DiT (Peebles and Xie 2022): layers of the adaptive
    norms zero, other dense layers Glorot uniform, embeddings normal with standard deviation 0.02."""
    options, init = plan.options, Init("normal", 0.02)
    C = options.hidden_size
    table = embedding("cls_emb", options.num_classes + 1, C, init)
    table |= embedding("tok_emb", plan.vocab_size, C, init) | embedding("pos_emb", plan.positions, C, init)
    if options.proj > 1:
        table["in_proj.weight"] = Parameter((C, C, options.proj, options.proj), GLOROT)
        table["out_proj.weight"] = Parameter((C * options.proj**2, C, 1, 1), GLOROT)
    for i in range(options.num_hidden_layers):
        name = f"transformer.layers.{i}"
        table |= dense(f"{name}.mlp.1", C, 6 * C, bias=True, init=ZEROS)
        table |= affine(f"{name}.ln1", C, bias=False) | affine(f"{name}.ln2", C, bias=False)
        for layer in ("wq", "wk", "wv"):
            table |= dense(f"{name}.attn.{layer}", C, plan.attention_width, bias=False, init=GLOROT)
        table |= dense(f"{name}.attn.wo", plan.attention_width, C, bias=False, init=GLOROT)
        for layer in ("w1", "w3"):
            table |= dense(f"{name}.ff.{layer}", C, plan.inner, bias=False, init=GLOROT)
        table |= dense(f"{name}.ff.w2", plan.inner, C, bias=False, init=GLOROT)
    table |= affine("last_norm.norm_final", C) | dense("last_norm.mlp.1", C, 2 * C, bias=True, init=ZEROS)
    table["head.bias"] = Parameter((plan.outputs,), ZEROS, decays=False)
    if plan.outputs != plan.vocab_size:
        table["head.weight"] = Parameter((plan.outputs, C), GLOROT)
    return table | (embedding("reg_tokens", options.register, C, init) if options.register else {})


def lucidrains(plan: TransformerPlan) -> Table:
    """muse-maskgit-pytorch's `Transformer` with PyTorch's initial values, without unused parameters."""
    options, C, normal = plan.options, plan.options.hidden_size, Init("normal", 1.0)
    N, K = options.num_attention_heads, plan.head_dim
    table = embedding("token_emb", plan.vocab_size, C, normal)
    table |= embedding("pos_emb", plan.positions, C, normal)
    for i in range(options.num_hidden_layers):
        name = f"transformer_blocks.layers.{i}"
        for layer in (f"{name}.0", f"{name}.1"):
            table[f"{layer}.null_kv"] = Parameter((2, N, 1, K), normal, decays=False)
            for leaf in ("q_scale", "k_scale"):
                table[f"{layer}.{leaf}"] = Parameter((K,), ONES, decays=False)
            table[f"{layer}.norm.gamma"] = Parameter((C,), ONES, decays=False)
            table |= dense(f"{layer}.to_q", C, N * K, bias=False)
            table |= dense(f"{layer}.to_kv", C, 2 * N * K, bias=False)
            table |= dense(f"{layer}.to_out", N * K, C, bias=False)
        table |= geglu(f"{name}.2", C, plan.inner)
    table["transformer_blocks.norm.gamma"] = Parameter((C,), ONES, decays=False)
    if options.encoder_hidden_size != C:
        table |= dense("text_embed_proj", options.encoder_hidden_size, C, bias=False)
    return table | dense("to_logits", C, plan.outputs, bias=False)


def _norm(name: str, width: int, plan: TransformerPlan, *, layer_norm: bool = False) -> Table:
    """A norm of the chosen type, or always a LayerNorm with `layer_norm`."""
    if plan.options.architecture == "uvit" and not plan.options.ln_elementwise_affine:
        return {}
    has_bias = plan.options.use_bias and (layer_norm or plan.options.norm_type == "layernorm")
    return affine(name, width, bias=has_bias)


def _pointwise(name: str, inputs: int, outputs: int, *, bias: bool, init: Init) -> Table:
    table = dense(name, inputs, outputs, bias=bias, init=init)
    weight = table[f"{name}.weight"]
    return table | {f"{name}.weight": Parameter((*weight.shape, 1, 1), weight.init)}


def _attention(name: str, width: int, context: int, *, bias: bool, init: Init) -> Table:
    table = dense(f"{name}.query", width, width, bias=bias, init=init)
    table |= dense(f"{name}.key", context, width, bias=bias, init=init)
    table |= dense(f"{name}.value", context, width, bias=bias, init=init)
    return table | dense(f"{name}.out", width, width, bias=bias, init=init)


def _gated(name: str, plan: TransformerPlan, init: Init) -> Table:
    options, C = plan.options, plan.options.hidden_size
    table = _norm(f"{name}.pre_mlp_layer_norm", C, plan, layer_norm=options.legacy_mlp_layernorm)
    for layer in ("wi_0", "wi_1"):
        table |= dense(f"{name}.{layer}", C, plan.inner, bias=options.use_bias, init=init)
    if options.use_normformer and options.architecture == "maskgit":
        table |= _norm(f"{name}.mid_mlp_layer_norm", plan.inner, plan)
    return table | dense(f"{name}.wo", plan.inner, C, bias=options.use_bias, init=init)


TABLES: dict[str, Callable[[TransformerPlan], Table]] = {
    "maskgit": maskgit,
    "uvit": uvit,
    "google": google,
    "halton": halton,
    "lucidrains": lucidrains,
}
