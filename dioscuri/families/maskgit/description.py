"""What `dioscuri describe` shows of a masked token model."""

from dioscuri.families.maskgit import transformers
from dioscuri.families.maskgit.options import HParams
from dioscuri.plans.description import Description, Row
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
    }
    return Description(
        shapes=shapes(transformers.parameter_table(plan)),
        facts={"tokens": plan.n_tokens, "codes": plan.codebook_size, "classes": model.num_classes},
        layers={"transformer": [row]},
    )
