"""MaskBit's networks over groups of bits (Weber et al. 2024): how codes are split, and the parameters."""

from math import sqrt

from dioscuri.errors import UserError
from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.families.maskgit.tables import dense
from dioscuri.plans.parameters import ONES, ZEROS, Init, Parameter, Table


def group_size(model: Transformer, codebook_size: int) -> int:
    """Number of values of one of the groups of bits into which a code is split; the codebook's size for other
    architectures. A `UserError` if the bits cannot be shared evenly."""
    if model.architecture not in BIT_GROUPS:
        return codebook_size
    bits, splits = codebook_size.bit_length() - 1, model.codebook_splits
    if 2**bits != codebook_size or bits % splits:
        raise UserError(
            f"[model] codebook_splits {splits} must divide the number of bits of a code, but "
            f"data.codebook_size {codebook_size} is not 2^bits with such a number"
        )
    return int(2 ** (bits // splits))


def lfqbert(plan: TransformerPlan) -> Table:
    """The network whose inputs are bits."""
    C, init = plan.options.hidden_size, Init("normal", plan.options.initializer_range)
    table = dense("input_proj", plan.splits * plan.group_bits, C, bias=True, init=init)
    return (
        table
        | _layers(plan, init)
        | dense("prediction_layer", C, plan.splits * plan.codebook_size, bias=True, init=init)
    )


def bert(plan: TransformerPlan) -> Table:
    """The network whose inputs are embeddings of groups."""
    C, init = plan.options.hidden_size, Init("normal", plan.options.initializer_range)
    tables = {
        f"tok_emb_list.{i}.weight": Parameter((plan.vocab_size, C), init, decays=False)
        for i in range(plan.splits)
    }
    biases = {
        f"bias.{i}": Parameter((plan.picture_tokens, plan.codebook_size), ZEROS, decays=False)
        for i in range(plan.splits)
    }
    return tables | _layers(plan, init) | biases


def _layers(plan: TransformerPlan, init: Init) -> Table:
    C = plan.options.hidden_size
    # Query, key and value are one matrix (3 C, C) in the original.
    one_of_three = Init("glorot_uniform", sqrt(1 / 2))
    table: Table = {
        "class_emb.weight": Parameter((plan.options.num_classes + 1, C), init, decays=False),
        "pos_emb.weight": Parameter((plan.positions, C), init, decays=False),
    }
    table |= _norm("first_norm", C)
    for i in range(plan.options.num_hidden_layers):
        name = f"layers.{i}"
        for layer in ("query", "key", "value"):
            table |= dense(f"{name}.attention.{layer}", C, C, bias=True, init=one_of_three)
        table |= dense(f"{name}.attention.out", C, C, bias=True, init=init)
        table |= _norm(f"{name}.attention_norm", C)
        table |= dense(f"{name}.intermediate", C, plan.inner, bias=True, init=init)
        table |= dense(f"{name}.output", plan.inner, C, bias=True, init=init)
        table |= _norm(f"{name}.ffn_norm", C)
    if plan.options.use_prenorm:
        table |= _norm("norm_after_transformer", C)
    return table | dense("last_dense", C, C, bias=True, init=init) | _norm("last_norm", C)


def _norm(name: str, width: int) -> Table:
    return {
        f"{name}.weight": Parameter((width,), ONES, decays=False),
        f"{name}.bias": Parameter((width,), ZEROS, decays=False),
    }


TABLES = {"lfqbert": lfqbert, "bert": bert}
