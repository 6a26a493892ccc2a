"""How well a score separates foreign pictures from known ones."""

from dataclasses import dataclass

import numpy as np

Array = np.ndarray

TRUE_POSITIVES = 0.95
"""Share of the foreign pictures that a threshold must reject, for the false positives of `fpr95`."""


@dataclass(frozen=True)
class Separation:
    """Measures in [0, 1] of a score whose positives are foreign pictures: `auroc`, the probability that a
    foreign picture scores higher than a known one (ties count half); `aupr`, the average precision, which for
    a score without information is the share of foreign pictures; `fpr95`, the share of known pictures that
    are rejected with 95 % of the foreign ones."""

    auroc: float
    aupr: float
    fpr95: float


def separation(known: Array, foreign: Array) -> Separation:
    """Measures of finite scores (N,) and (M,); higher scores are more foreign."""
    from sklearn.metrics import (  # noqa: PLC0415 - seconds to import, for these measures only
        average_precision_score,
        roc_auc_score,
        roc_curve,
    )

    positive = np.repeat([False, True], [len(known), len(foreign)])
    scores = np.concatenate([known, foreign])
    false, true, _ = roc_curve(positive, scores, drop_intermediate=False)
    return Separation(
        auroc=float(roc_auc_score(positive, scores)),
        aupr=float(average_precision_score(positive, scores)),
        fpr95=float(false[true >= TRUE_POSITIVES].min()),
    )
