"""Small masked token transformers that together cover every value of every enumerated or boolean option."""

import numpy as np

from dioscuri.families.maskgit.model_options import BIT_GROUPS, Transformer
from dioscuri.families.maskgit.plan import MASK_FIRST
from dioscuri.families.maskgit.transformers import dropout_noise, make_plan, parameter_table
from dioscuri.plans.parameters import shapes

GRID, LENGTH, CODES, BATCH, TEXT = 4, 9, 11, 2, 5

SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 36,
    "encoder_hidden_size": 10,
    "in_channels": 6,
    "block_out_channels": (8,),
    "block_num_heads": 2,
    "num_res_blocks": 1,
    "cond_embed_dim": 7,
    "micro_cond_encode_dim": 5,
}

DROPPED = {"hidden_dropout": 0.2, "attention_dropout": 0.3}

MEISSONIC = {
    "architecture": "meissonic",
    "hidden_size": 24,
    "cond_embed_dim": 24,
    "axes_dims_rope": (2, 2, 4),
    "vocab_size": 14,
}

CASES = {
    "class": {**DROPPED, "num_classes": 3, "vocab_size": 19, "self_cond": True, "critic": "token"},
    "text": {
        **DROPPED,
        "add_cross_attention": True,
        "project_encoder_hidden_states": True,
        "norm_type": "rmsnorm",
        "legacy_mlp_layernorm": True,
        "use_bias": True,
        "use_normformer": False,
        "use_encoder_layernorm": False,
        "use_mlm_layer": False,
        "use_codebook_size_for_output": True,
    },
    "patches": {
        "add_cross_attention": True,
        "use_conv_in_out": True,
        "embedding_size": 6,
        "patch_size": 2,
        "use_bias": True,
        "norm_type": "rmsnorm",
    },
    "plain": {"use_mlm_layernorm": False, "max_position_embeddings": 20, "critic": "self"},
    "uvit": {
        **DROPPED,
        "architecture": "uvit",
        "norm_type": "rmsnorm",
        "legacy_mlp_layernorm": True,
        "force_down_up_sample": True,
        "self_cond": True,
    },
    "uvit_plain": {
        "architecture": "uvit",
        "block_out_channels": (24,),
        "use_bias": True,
        "ln_elementwise_affine": False,
        "add_cond_embeds": False,
        "add_micro_cond_embeds": False,
        "critic": "token",
    },
    "google": {
        **DROPPED,
        "architecture": "google",
        "num_classes": 3,
        "self_cond": True,
        "critic": "self",
    },
    "halton": {
        **DROPPED,
        "architecture": "halton",
        "num_classes": 3,
        "num_attention_heads": 5,
        "register": 2,
        "proj": 2,
        "self_cond": True,
    },
    "halton_plain": {"architecture": "halton", "register": 0, "critic": "token"},
    "lucidrains": {
        **DROPPED,
        "architecture": "lucidrains",
        "head_dim": 5,
        "self_cond": True,
        "critic": "token",
    },
    "meissonic": {
        **MEISSONIC,
        "num_hidden_layers": 2,
        "num_single_layers": 2,
        "force_down_up_sample": True,
        "timestep_factor": 1000.0,
    },
    "meissonic_flat": {**MEISSONIC, "num_hidden_layers": 1, "num_single_layers": 0},
    "imagebert": {
        **DROPPED,
        "architecture": "imagebert",
        "num_classes": 3,
        "self_cond": True,
        "critic": "self",
    },
    "uvitbert": {"architecture": "uvitbert", "num_classes": 3, "num_hidden_layers": 4, "critic": "token"},
    "maskgen": {
        "architecture": "maskgen",
        "num_hidden_layers": 3,
        "vocab_size": 15,
        "add_micro_cond_embeds": False,
        "critic": "token",
    },
    "lfqbert": {
        **DROPPED,
        "architecture": "lfqbert",
        "num_classes": 3,
        "codebook_splits": 2,
        "use_prenorm": True,
    },
    "bert": {**DROPPED, "architecture": "bert", "num_classes": 3, "codebook_splits": 3},
    "maskgen_untied": {
        "architecture": "maskgen",
        "weight_tying": False,
        "num_hidden_layers": 1,
        "self_cond": True,
    },
}


def make(case):
    """Plan, float64 weights, ids (B, L), condition and dropout noise of a case."""
    rng = np.random.default_rng(len(case))
    options = Transformer(**{**SMALL, **CASES[case]})
    one_d, codes = options.architecture in MASK_FIRST, 64 if options.architecture in BIT_GROUPS else CODES
    plan = make_plan(options, 0, codes, sequence_length=LENGTH) if one_d else make_plan(options, GRID, codes)
    weights = {
        name: rng.normal(len(shape) == 1 and not name.endswith("bias"), 0.3, shape)
        for name, shape in shapes(parameter_table(plan)).items()
    }
    ids = rng.integers(0, min(CODES, plan.codebook_size), (BATCH, plan.n_tokens))
    ids[rng.random(ids.shape) < 0.5] = plan.mask_id
    lucidrains = plan.options.architecture == "lucidrains"
    noise = {draw.name: rng.random(draw.shape) for draw in dropout_noise(plan, BATCH, TEXT + 3 * lucidrains)}
    return plan, weights, ids, _condition(plan, rng), noise


def critic_input(plan, ids, condition):
    """Ids without masks and a condition for the critic; a token critic gets no last pass."""
    kept = {
        name: array for name, array in condition.items() if name != "self" or plan.options.critic == "self"
    }
    return np.where(ids == plan.mask_id, 3, ids), kept


def _condition(plan, rng):
    """All conditions of the plan: one class is the null class, one text is shorter, one text is dropped."""
    made = {
        "label": np.array([1, plan.null_label]),
        "text": rng.normal(size=(BATCH, TEXT, plan.options.encoder_hidden_size)),
        "pooled": rng.normal(size=(BATCH, plan.options.cond_embed_dim)),
        "micro": rng.uniform(0, 50, (BATCH, 5)),
    }
    condition = {name: made[name] for name in plan.conditions}
    if plan.takes_timestep:
        condition["timestep"] = rng.uniform(0, 4, BATCH)
    if plan.uses_text:
        condition["text_mask"] = np.arange(TEXT) < np.array([[TEXT], [2]])
    if plan.options.architecture == "lucidrains":
        condition["low_res"] = rng.integers(0, CODES, (BATCH, 3))
    if plan.options.self_cond:
        tokens = plan.length - plan.class_token
        tokens -= plan.options.register if plan.options.architecture == "halton" else 0
        condition["self"] = rng.normal(size=(BATCH, tokens, plan.options.hidden_size))
    return condition
