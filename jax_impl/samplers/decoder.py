"""What all token samplers share: the network under guidance, and the loop's results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from dioscuri.families.maskgit.decoding import Steps
from dioscuri.families.token_models.masking_options import Sampling
from jax_impl.layers.precision import at_least_float32
from jax_impl.models.maskgit import rows_at
from jax_impl.samplers.choice import draw_tokens, filtered, guide, log_probability
from jax_impl.samplers.noise import StepNoise

Condition = Mapping[str, Array]
Network = Any
"""A model, or what behaves like one: called with ids (B, L) and a condition it gives logits (B, L, V) and
intermediates; with `positions` and `outputs` those logits alone."""
Critic = Callable[[Array, Condition], Array]
"""(ids (B, L), condition) -> logits (B, L), high where a token looks wrong."""
State = tuple[Any, ...]
"""What a sampler carries from step to step."""


class Sampled(NamedTuple):
    """`tokens` (B, L); of every step `inputs` (T, B, L), which the network got, and `drawn` (T, B, L), its
    guess of the whole."""

    tokens: Array
    inputs: Array
    drawn: Array


class Drawn(NamedTuple):
    """`tokens` (B, L), `log_p` (B, L), their log-probabilities where they were drawn, the step's `noise`, and
    the embedding for self-conditioning, where there is one."""

    tokens: Array
    log_p: Array
    noise: Mapping[str, Array]
    embedding: Array | None


@dataclass(frozen=True)
class Predictor:
    """A network that predicts tokens, and the condition under which it does.

    `null` is what stands for no condition: under guidance the network gets both in one call. `prepare`
    computes once what the network needs of the condition in all steps (`model.prepare`). `critic` serves the
    scores sampler.
    """

    network: Network
    codebook_size: int
    mask_id: int
    condition: Condition
    null: Condition | None = None
    critic: Critic | None = None
    prepare: Callable[[Condition], Condition] | None = None


@dataclass(frozen=True)
class Decoder:
    """A predictor with all numbers of a sampler.

    `condition` is prepared, and doubled if `guided`: first the given one, then what stands for none. The
    critic gets `plain`, the condition before it was prepared. `steps`, `noise` and `counts` hold the numbers,
    the noise and the largest number of predicted positions of every step.
    """

    predictor: Predictor
    options: Sampling
    steps: Steps
    noise: StepNoise
    counts: tuple[int, ...]
    condition: Condition
    plain: Condition
    guided: bool

    @property
    def mask_id(self) -> int:
        """The token that stands for an unknown one."""
        return self.predictor.mask_id

    @property
    def n_outputs(self) -> int:
        """Number of logits that are sampled from."""
        return self.predictor.codebook_size + self.options.legacy_mask_token

    def predict(
        self,
        ids: Array,
        to_predict: Array,
        k: Array,
        embedding: Array | None,
        *,
        temperature: Array | None = None,
        resample: bool = False,
    ) -> Drawn:
        """Sample the positions `to_predict` of ids (B, L) in step k, at most `counts[k]` of them.

        `temperature` divides the logits once they are filtered. `resample`: the other tokens are sampled too,
        as far as the network's logits are there. `embedding` conditions the network on its last pass; both
        halves get that of the given condition.
        """
        B, L = ids.shape
        condition, sizes = self.condition, sorted(set(self.counts))
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        if sizes == [L]:
            logits, aux = self.predictor.network(self._doubled(ids), condition, outputs=self.n_outputs)
            noise = self.noise(k, None)
            sampled, logits = self._choose(logits, noise["tokens"], k, temperature)
            tokens = sampled if resample else jnp.where(to_predict, sampled, ids)
            log_p = log_probability(logits, tokens)
        else:
            x, aux = self.predictor.network.hidden(self._doubled(ids), condition)
            branches = [partial(self._at, x, ids, to_predict, k, n, temperature, resample) for n in sizes]
            size = jnp.searchsorted(jnp.asarray(sizes), jnp.asarray(self.counts)[k])
            tokens, log_p = jax.lax.switch(size, branches)
            # XLA leaves out the noise of all tokens, which is not used.
            noise = self.noise(k, None)
        return Drawn(
            tokens, log_p, noise, None if embedding is None else aux["embed"][:B].astype(embedding.dtype)
        )

    def _at(
        self,
        x: Array,
        ids: Array,
        to_predict: Array,
        k: Array,
        n: int,
        temperature: Array | None,
        resample: bool,
    ) -> tuple[Array, Array]:
        """Tokens and log-probabilities (B, L), drawn at n positions, of the network's states."""
        rows = jnp.arange(len(ids))[:, None]
        positions = first_positions(to_predict, n)
        behind = self._doubled(positions) + (x.shape[1] - ids.shape[1])  # the class token
        logits = self.predictor.network.logits(rows_at(x, behind), self.n_outputs)
        noise = self.noise(k, positions)["tokens"]
        sampled, logits = self._choose(logits, noise, k, temperature)
        tokens = (
            sampled if resample else jnp.where(to_predict[rows, positions], sampled, ids[rows, positions])
        )
        log_p = log_probability(logits, tokens)
        return ids.at[rows, positions].set(tokens), jnp.zeros(ids.shape, log_p.dtype).at[rows, positions].set(
            log_p
        )

    def _choose(
        self, logits: Array, noise: Array, k: Array, temperature: Array | None
    ) -> tuple[Array, Array]:
        """Tokens (B, n) of the network's logits, and guided logits (B, n, K) in at least float32."""
        logits = at_least_float32(logits)
        logits = guide(logits, self.steps.guidance[k]) if self.guided else logits
        logits = logits * self.steps.logit_scale[k]
        allowed = filtered(logits, self.options)
        return draw_tokens(allowed if temperature is None else allowed / temperature, noise), logits

    def critic_scores(self, ids: Array, factor: Array) -> Array:
        """The critic's guided logits (B, L)."""
        assert self.predictor.critic is not None
        scores = at_least_float32(self.predictor.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def _doubled(self, x: Array) -> Array:
        return jnp.concatenate([x, x]) if self.guided else x


def make_decoder(
    predictor: Predictor, options: Sampling, steps: Steps, noise: StepNoise, counts: tuple[int, ...]
) -> Decoder:
    """Guidance is on where the predictor has a `null` condition and the options ask for it."""
    null = predictor.null if options.guidance_scale > 0 else None
    plain = dict(predictor.condition) if null is None else doubled_condition(predictor.condition, null)
    prepared = plain if predictor.prepare is None else predictor.prepare(plain)
    return Decoder(predictor, options, steps, noise, counts, prepared, plain, null is not None)


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Array]:
    """Conditions (2B, ...): the given ones, then those of `null`, of B rows or one; what is not in `null` is
    repeated."""
    doubled = {}
    for name, value in condition.items():
        without = jnp.broadcast_to(null[name], value.shape).astype(value.dtype) if name in null else value
        doubled[name] = jnp.concatenate([value, without])
    return doubled


def first_positions(to_predict: Array, n: int) -> Array:
    """n positions (B, n) of each row of `to_predict` (B, L): the true ones first, each kind in order."""
    return jnp.argsort(to_predict.astype(jnp.uint8), axis=1, descending=True, stable=True)[:, :n]


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
