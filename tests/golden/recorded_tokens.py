"""Base of the recorded cases of token networks: a twin with the weights, and losses."""

from types import SimpleNamespace

import numpy as np


class Run(SimpleNamespace):
    """A case's `plan`, canonical `weights`, `twin` with them; and the case's arrays and comparison."""

    def __init__(self, case, plan, weights, kind):
        super().__init__(case=case, about=case.about, plan=plan, weights=weights, twin=kind(plan, weights))
        self.inputs, self.outputs, self.close = case.inputs, case.outputs, case.close


def cross_entropy(logits, labels, weights, smoothing=0.0):
    """Weighted sum of cross entropies, and its gradient: logits (B, L, K), labels and weights (B, L)."""
    logits = logits.astype(np.float64)
    log_p = logits - logits.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    K = logits.shape[-1]
    target = (1 - smoothing) * (labels[..., None] == np.arange(K)) + smoothing / K
    loss = -(weights[..., None] * target * log_p).sum()
    return loss, weights[..., None] * (np.exp(log_p) - target)


def mean_over_labelled(labels, ignored=-100):
    """Weights of a mean over the positions that have a label."""
    return (labels != ignored) / (labels != ignored).sum()
