"""Parameters of an image tokenizer, under the originals' names, and its buffers."""

from dioscuri.families.vqgan.one_d_tokens import one_d_table
from dioscuri.families.vqgan.plan import Block, TokenizerPlan, codebook_name, has_codebook
from dioscuri.families.vqgan.residual_tokenizers import residual_table
from dioscuri.families.vqgan.spectral import generator_layers, generator_table, power_buffers
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table

LEARNT = Init("fan_in_uniform")


def parameter_table(plan: TokenizerPlan) -> Table:
    """Every parameter under its canonical name; names are those of open-muse and taming-transformers."""
    if plan.paella:
        return _paella_table(plan)
    if plan.residual is not None:
        return residual_table(plan.residual, plan.channels, _codebook(plan))
    if plan.one_d is not None:
        proxy = {} if plan.proxy is None else _decoding(parameter_table(plan.proxy))
        return one_d_table(plan.options, plan.one_d, plan.channels, _codebook(plan), proxy)
    if plan.spectral is not None:
        return generator_table(plan.spectral, plan.channels, _codebook(plan))
    return _levels_table(plan)


def _decoding(table: Table) -> Table:
    """The codes and the decoder of a tokenizer."""
    chosen = {name: table[name] for name in table if not name.startswith("encoder.")}
    return {
        name: Parameter(entry.shape, entry.init, entry.decays and not name.startswith("quantize."))
        for name, entry in chosen.items()
    }


def _levels_table(plan: TokenizerPlan) -> Table:
    options, taming = plan.options, plan.taming
    table = _conv("encoder.conv_in", plan.channels, options.hidden_channels, 3, bias=taming)
    for i, level in enumerate(plan.encoder):
        table |= _blocks(plan, level.blocks, f"encoder.down.{i}.attn")
        if level.resamples and plan.strided:
            table |= _conv(f"encoder.down.{i}.downsample.conv", level.width, level.width, 3)
    top = plan.encoder[-1].width
    table |= _blocks(plan, plan.encoder_mid, "encoder.mid.attn")
    table |= _norm(plan, "encoder.norm_out", top)
    table |= _conv("encoder.conv_out", top, options.z_channels, 3 if taming else 1)
    if taming:
        table |= _conv("quant_conv", options.z_channels, options.embedding_dim, 1)
    table |= _codebook(plan)
    if options.quantizer == "gumbel" and taming:
        table |= _conv("quantize.proj", options.embedding_dim, plan.codebook_size, 1)
    if taming:
        table |= _conv("post_quant_conv", options.embedding_dim, options.z_channels, 1)
    table |= _conv("decoder.conv_in", options.z_channels, top, 3)
    table |= _blocks(plan, plan.decoder_mid, "decoder.mid.attn")
    for i, level in reversed(list(enumerate(plan.decoder))):
        table |= _blocks(plan, level.blocks, f"decoder.up.{i}.attn")
        if level.resamples and (options.resample_with_conv or not taming):
            name = "upsample.conv" if taming else "upsample_conv"
            table |= _conv(f"decoder.up.{i}.{name}", level.width, level.width, 3)
    finest = plan.decoder[0].width
    return (
        table | _norm(plan, "decoder.norm_out", finest) | _conv("decoder.conv_out", finest, plan.channels, 3)
    )


def _paella_table(plan: TokenizerPlan) -> Table:
    widths, D = [level.width for level in plan.encoder], plan.options.z_channels
    table = _conv("encoder.conv_in", 4 * plan.channels, widths[0], 1)
    for i, width in enumerate(widths):
        if i:
            table |= _conv(f"encoder.down.{i}.resample", widths[i - 1], width, 4)
        table |= _modulated_block(f"encoder.down.{i}.blocks.0", width)
    table |= _conv("encoder.conv_out", widths[-1], D, 1)
    table |= _codebook(plan)
    table |= _conv("decoder.conv_in", D, widths[-1], 1)
    for i, width in reversed(list(enumerate(widths))):
        for j in range(plan.options.num_res_blocks if i == len(widths) - 1 else 1):
            table |= _modulated_block(f"decoder.up.{i}.blocks.{j}", width)
        if i:
            transposed = _conv(f"decoder.up.{i}.resample", width, widths[i - 1], 4)
            weight = transposed[f"decoder.up.{i}.resample.weight"]
            shape = (width, widths[i - 1], 4, 4)
            table |= transposed | {f"decoder.up.{i}.resample.weight": Parameter(shape, weight.init)}
    return table | _conv("decoder.conv_out", widths[0], 4 * plan.channels, 1)


def _modulated_block(name: str, width: int) -> Table:
    table = {f"{name}.gammas": Parameter((6,), ZEROS, decays=False)}
    for layer, inputs, outputs in (("0", width, 4 * width), ("2", 4 * width, width)):
        dense = _conv(f"{name}.channelwise.{layer}", inputs, outputs, 1)
        weight = f"{name}.channelwise.{layer}.weight"
        table |= dense | {weight: Parameter((outputs, inputs), LEARNT)}
    init = Init("fan_in_uniform", fan_in=9)
    table[f"{name}.depthwise.weight"] = Parameter((width, 1, 3, 3), LEARNT)
    table[f"{name}.depthwise.bias"] = Parameter((width,), init, decays=False)
    return table


def buffer_table(plan: TokenizerPlan) -> Table:
    """Buffers of the quantiser (moving averages of each code's count and sum of vectors and, if these begin
    at 0, the number of batches; of clustered codes, their shares of the tokens and their last moves) and of
    the network's power iteration."""
    table = power_buffers("", generator_layers(plan.spectral), values=True) if plan.spectral else {}
    if plan.options.clustered:
        table |= {
            "embed_prob": Parameter((plan.codebook_size,), ZEROS),
            "code_shift": Parameter(_codes(plan), ZEROS),
        }
    if plan.options.quantizer != "ema":
        return table
    if plan.options.ema_debiased:
        return table | {
            "cluster_size": Parameter((plan.codebook_size,), ZEROS),
            "embedding_sum": Parameter(_codes(plan), ZEROS),
            "averaged": Parameter((1,), ZEROS),
        }
    return table | {
        "cluster_size": Parameter((plan.codebook_size,), ONES),
        "embedding_sum": Parameter(_codes(plan), Init("uniform", 1 / plan.codebook_size)),
    }


def _codebook(plan: TokenizerPlan) -> Table:
    if not has_codebook(plan):
        return {}
    return {codebook_name(plan): Parameter(_codes(plan), Init("uniform", 1 / plan.codebook_size))}


def _codes(plan: TokenizerPlan) -> tuple[int, int]:
    return plan.codebook_size, plan.embedding_dim


def _blocks(plan: TokenizerPlan, blocks: tuple[Block, ...], attention: str) -> Table:
    table: Table = {}
    for j, block in enumerate(blocks):
        table |= _block(plan, block)
        if block.attention:
            name = f"{attention}_1" if attention.endswith("mid.attn") else f"{attention}.{j}"
            table |= _norm(plan, f"{name}.norm", block.outputs)
            for layer in ("q", "k", "v", "proj_out"):
                table |= _conv(f"{name}.{layer}", block.outputs, block.outputs, 1)
    return table


def _block(plan: TokenizerPlan, block: Block) -> Table:
    bias, name = plan.taming, block.name
    table = _norm(plan, f"{name}.norm1", block.inputs)
    table |= _conv(f"{name}.conv1", block.inputs, block.outputs, 3, bias=bias)
    table |= _norm(plan, f"{name}.norm2", block.outputs)
    table |= _conv(f"{name}.conv2", block.outputs, block.outputs, 3, bias=bias)
    if block.inputs != block.outputs:
        legacy = plan.options.legacy_shortcut and not plan.taming
        inputs = block.outputs if legacy else block.inputs
        table |= _conv(f"{name}.nin_shortcut", inputs, block.outputs, 1, bias=bias)
    return table


def _norm(plan: TokenizerPlan, name: str, width: int) -> Table:
    if not (plan.modulated and name.startswith("decoder.")):
        return _affine(name, width)
    table = _affine(f"{name}.norm_layer", width)
    for layer in ("conv_y", "conv_b"):
        table |= _conv(f"{name}.{layer}", plan.embedding_dim, width, 1)
    return table


def _affine(name: str, width: int) -> Table:
    return {
        f"{name}.weight": Parameter((width,), ONES, decays=False),
        f"{name}.bias": Parameter((width,), ZEROS, decays=False),
    }


def _conv(name: str, inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Table:
    table = {f"{name}.weight": Parameter((outputs, inputs, kernel, kernel), LEARNT)}
    if bias:
        init = Init("fan_in_uniform", fan_in=inputs * kernel**2)
        table[f"{name}.bias"] = Parameter((outputs,), init, decays=False)
    return table
