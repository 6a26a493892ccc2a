"""What every sampler of tokens shares: the network under guidance, and the loop's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from common.hparams.masked_tokens import Sampling
from common.plans.decoding import Steps
from jax_impl.layers.precision import at_least_float32
from jax_impl.samplers.choice import guide

Condition = Mapping[str, Array]
Network = Callable[[Array, Condition], tuple[Array, Mapping[str, Array]]]
"""(ids (B, L), condition) -> (logits (B, L, V), intermediates): a model, or what behaves like one."""
Critic = Callable[[Array, Condition], Array]
"""(ids (B, L), condition) -> logits (B, L), high where a token looks wrong."""
State = tuple[Array | None, ...]
"""What a sampler carries from step to step."""


class Sampled(NamedTuple):
    """`tokens` (B, L); of every step `inputs` (T, B, L), which the network got, and `drawn` (T, B, L), its
    guess of the whole."""

    tokens: Array
    inputs: Array
    drawn: Array


@dataclass(frozen=True)
class Decoder:
    """A network and its condition, doubled if `guided`: first the given ones, then those that stand for none.

    The critic gets `plain`, the condition before the network prepared it.
    """

    network: Network
    options: Sampling
    codebook_size: int
    mask_id: int
    condition: Condition
    plain: Condition
    guided: bool
    critic: Critic | None

    @property
    def n_outputs(self) -> int:
        """Logits that are drawn from."""
        return self.codebook_size + self.options.legacy_mask_token

    def predict(self, ids: Array, factor: Array, embedding: Array | None) -> tuple[Array, Array | None]:
        """Guided logits (B, L, K) in at least float32, and the embedding for self-conditioning, where there
        is one; both halves get that of the given condition."""
        B, condition = len(ids), self.condition
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        logits, aux = self.network(self._doubled(ids), condition)
        logits = at_least_float32(logits[..., : self.n_outputs])
        if self.guided:
            logits = guide(logits, factor)
        return logits, None if embedding is None else aux["embed"][:B].astype(embedding.dtype)

    def doubts(self, ids: Array, factor: Array) -> Array:
        """The critic's guided logits (B, L)."""
        assert self.critic is not None
        scores = at_least_float32(self.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def _doubled(self, x: Array) -> Array:
        return jnp.concatenate([x, x]) if self.guided else x


def make_decoder(
    network: Network,
    options: Sampling,
    codebook_size: int,
    mask_id: int,
    condition: Condition,
    null: Condition | None,
    critic: Critic | None = None,
    prepare: Callable[[Condition], Condition] | None = None,
) -> Decoder:
    """Guidance is on where `null` is given and the options ask for it."""
    guided = null is not None and options.guidance_scale > 0
    plain = doubled_condition(condition, null) if null is not None and guided else dict(condition)
    prepared = plain if prepare is None else prepare(plain)
    return Decoder(network, options, codebook_size, mask_id, prepared, plain, guided, critic)


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Array]:
    """Conditions (2B, ...): the given ones, then those of `null`, of B rows or one; what is not in `null` is
    repeated."""
    doubled = {}
    for name, value in condition.items():
        without = jnp.broadcast_to(null[name], value.shape).astype(value.dtype) if name in null else value
        doubled[name] = jnp.concatenate([value, without])
    return doubled


def steps_beside(steps: Steps, ids: Array) -> Steps:
    """The numbers as arrays; JAX moves them to the ids."""
    del ids
    return Steps(*[jnp.asarray(value) for value in steps])


def run_steps(
    step: Callable[[Array, State], tuple[State, Array, Array]], state: State, first: int, last: int
) -> tuple[State, Array, Array]:
    """Run `step(k, state) -> (state, inputs, drawn)` for k from `first` to below `last`; the last state, and
    what all steps got and drew, (T, B, L)."""

    def body(state: State, k: Array) -> tuple[State, tuple[Array, Array]]:
        state, got, guess = step(k, state)
        return state, (got, guess)

    state, (inputs, drawn) = jax.lax.scan(body, state, jnp.arange(first, last))
    return state, inputs, drawn
