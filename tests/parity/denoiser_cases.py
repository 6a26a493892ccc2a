"""Small networks of SUNDAE that together cover every value of every enumerated or boolean option."""

import numpy as np

from dioscuri.families.sundae.model_options import Denoiser
from dioscuri.families.sundae.plan import make_plan, parameter_table
from dioscuri.plans.parameters import shapes

CODES, BATCH = 7, 2
SMALL = {"dim": 12, "nb_heads": 2, "dim_head": 8}

CASES = {
    "hourglass": {"depth": (0, (1, 1, 1), 1), "shorten_factor": (4, 9), "num_classes": 3},
    "legacy": {"depth": (1, 1, 0), "shorten_factor": 9, "legacy_positions": True},
    "legacy_wide": {"depth": 1, "rotary_emb_dim": 6, "legacy_positions": True},
    "narrow": {"depth": 1, "rotary_emb_dim": 2},
    "naive": {
        "depth": (0, 1, 1),
        "shorten_factor": 4,
        "updown_sample_type": "naive",
        "attn_resampling": False,
        "use_rotary": False,
    },
    "flat": {"depth": 2},
    "text": {"architecture": "transformer", "depth": 1, "dim_head": 36},
    "text_plain": {
        "architecture": "transformer",
        "depth": 1,
        "use_scalenorm": False,
        "use_glu": False,
        "use_rotary": False,
        "num_classes": 3,
    },
}


def make(case):
    """Plan, float64 weights, ids (B, L), condition and no noise."""
    rng = np.random.default_rng(len(case))
    options = Denoiser(**{**SMALL, **CASES[case]})
    is_text = options.architecture == "transformer"
    plan = make_plan(options, 0 if is_text else 6, CODES, 5 if is_text else 0)
    weights = {
        name: rng.normal(len(shape) == 1 and not name.endswith("bias"), 0.3, shape)
        for name, shape in shapes(parameter_table(plan)).items()
    }
    ids = rng.integers(0, CODES, (BATCH, plan.n_tokens))
    return plan, weights, ids, {"label": np.array([0, 2])} if plan.conditions else {}, {}
