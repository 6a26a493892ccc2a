"""What `dioscuri describe` shows of a masked token model."""

from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.options import HParams
from dioscuri.families.maskgit.plan import TransformerPlan
from dioscuri.plans.description import Description, Row, RowShapes, token_rows
from dioscuri.plans.parameters import shapes


def describe(hparams: HParams) -> Description:
    """The transformer's layers and its tokens; a `UserError` names an option that does not fit."""
    model = hparams.model
    plan = transformers.plan_of(hparams)
    row: Row = {
        "architecture": model.architecture,
        "positions": plan.length,
        "width": model.hidden_size,
        "heads": model.num_attention_heads,
        "inner width": plan.inner,
        "layers": model.num_hidden_layers,
        **({"layers of both": model.num_single_layers} if model.architecture == "meissonic" else {}),
    }
    return Description(
        shapes=shapes(transformers.parameter_table(plan)),
        facts={
            "tokens": plan.picture_tokens,
            "codes": plan.picture_codes,
            **({"groups": plan.splits, "codes_per_group": plan.codebook_size} if plan.splits > 1 else {}),
            "classes": model.num_classes,
            "sampling_steps": hparams.synthesis.steps,
        },
        layers={"transformer": [row]},
        rows={
            **token_rows(hparams.data, plan.picture_tokens, model.num_classes),
            **_conditions(hparams, plan),
        },
    )


def _conditions(hparams: HParams, plan: TransformerPlan) -> RowShapes:
    """What the model is told besides a label."""
    model, length = hparams.model, hparams.data.text_length
    rows: RowShapes = {
        "text": ((length, model.encoder_hidden_size), "float32"),
        "text_mask": ((length,), "bool"),
        "pooled": ((model.cond_embed_dim,), "float32"),
        "micro": ((5,), "float32"),
    }
    names = [name for name in plan.conditions if name in rows and (length or name != "text")]
    masked = "text" in names and not hparams.data.attend_padding
    return {name: rows[name] for name in (*names, *(["text_mask"] if masked else []))}
