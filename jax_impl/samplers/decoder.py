"""Base of all token samplers: the network with guidance, and the loop over steps."""

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
from jax_impl.models.token_transformer import rows_at
from jax_impl.samplers.choice import draw_tokens, filtered, guide, log_probability, logit_of
from jax_impl.samplers.noise import StepNoise

Condition = Mapping[str, Array]
Network = Any
"""A model, or a function like one: ids (B, L) and a condition -> logits (B, L, V) and intermediates; with
`positions` and `outputs`, only those logits."""
Critic = Callable[[Array, Condition], Array]
"""(ids (B, L), condition) -> logits (B, L), high where a token looks wrong."""
State = tuple[Any, ...]
"""The state of a sampler between steps."""


class Sampled(NamedTuple):
    """`tokens` (B, L) and, for every step, the network's `inputs` (T, B, L) and the tokens that it predicted,
    `drawn` (T, B, L). `taken` of the T steps were needed: the others repeat the tokens."""

    tokens: Array
    inputs: Array
    drawn: Array
    taken: Array


class Drawn(NamedTuple):
    """`tokens` (B, L); `log_p` (B, L), log-probabilities of sampled tokens, with the sampler 'logits' their
    logits; the step's `noise`; and the embedding for self-conditioning, if any."""

    tokens: Array
    log_p: Array
    noise: Mapping[str, Array]
    embedding: Array | None


@dataclass(frozen=True)
class Predictor:
    """A network that predicts tokens, and its condition.

    `null` is the null condition: with guidance, the network gets both in one call. `prepare` computes once
    what all steps need of the condition (`model.prepare`). `critic` is for the scores sampler. A network
    that is told the time gets the share of masked tokens times `timestep_factor`; None: it is not told.
    `shape` is that of a picture's tokens, by default a square grid's.
    """

    network: Network
    codebook_size: int
    mask_id: int
    condition: Condition
    null: Condition | None = None
    critic: Critic | None = None
    prepare: Callable[[Condition], Condition] | None = None
    timestep_factor: float | None = None
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Decoder:
    """A predictor with the schedule of a sampler.

    `condition` is prepared and, if `guided`, doubled: the given one, then the null condition. The critic gets
    `plain`, the condition before preparation. `steps`, `noise` and `counts` hold the schedule, the noise and
    the maximum number of predicted positions of every step.
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
        """The mask token."""
        return self.predictor.mask_id

    @property
    def n_outputs(self) -> int:
        """Number of logits from which tokens are sampled."""
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

        `temperature` divides the filtered logits. `resample`: the other tokens are sampled too, if their
        logits are computed. `embedding` conditions the network on its last pass; with guidance, both halves
        get that of the given condition.
        """
        B, L = ids.shape
        condition, sizes = self.condition, sorted(set(self.counts))
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        if self.predictor.timestep_factor is not None:
            timestep = self._timestep(ids, k, self.predictor.timestep_factor)
            condition = {**condition, "timestep": self._doubled(timestep)}
        if sizes == [L]:
            logits, aux = self.predictor.network(self._doubled(ids), condition, outputs=self.n_outputs)
            noise = self.noise(k, None)
            sampled, logits = self._choose(logits, noise["tokens"], k, temperature)
            tokens = sampled if resample else jnp.where(to_predict, sampled, ids)
            log_p = self._log_p(logits, tokens)
        else:
            x, aux = self.predictor.network.hidden(self._doubled(ids), condition)
            branches = [partial(self._at, x, ids, to_predict, k, n, temperature, resample) for n in sizes]
            size = jnp.searchsorted(jnp.asarray(sizes), jnp.asarray(self.counts)[k])
            tokens, log_p = jax.lax.switch(size, branches)
            # XLA removes the noise of all tokens, which is unused.
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
        """Tokens and log-probabilities (B, L), sampled at n positions from the network's states."""
        rows = jnp.arange(len(ids))[:, None]
        positions = first_positions(to_predict, n)
        behind = self._doubled(positions) + (x.shape[1] - ids.shape[1])  # the class token
        logits = self.predictor.network.logits(rows_at(x, behind), self.n_outputs)
        noise = self.noise(k, positions)["tokens"]
        sampled, logits = self._choose(logits, noise, k, temperature)
        tokens = (
            sampled if resample else jnp.where(to_predict[rows, positions], sampled, ids[rows, positions])
        )
        log_p = self._log_p(logits, tokens)
        return ids.at[rows, positions].set(tokens), jnp.zeros(ids.shape, log_p.dtype).at[rows, positions].set(
            log_p
        )

    def _choose(
        self, logits: Array, noise: Array, k: Array, temperature: Array | None
    ) -> tuple[Array, Array]:
        """Tokens (B, n) sampled from the network's logits, and guided logits
        (B, n, K) in at least float32."""
        logits = at_least_float32(logits)
        logits = guide(logits, self.steps.guidance[k]) if self.guided else logits
        logits = logits * self.steps.logit_scale[k]
        allowed = filtered(logits, self.options, k, self.steps.top_p)
        return draw_tokens(allowed if temperature is None else allowed / temperature, noise), logits

    def _log_p(self, logits: Array, tokens: Array) -> Array:
        """Log-probabilities, or logits, of tokens."""
        return (logit_of if self.options.sampler == "logits" else log_probability)(logits, tokens)

    def critic_scores(self, ids: Array, factor: Array) -> Array:
        """The critic's guided logits (B, L)."""
        assert self.predictor.critic is not None
        scores = at_least_float32(self.predictor.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def has_masked(self, state: State) -> Array:
        """Whether a token of the ids, `state[0]` (B, L), is masked."""
        return (state[0] == self.mask_id).any()

    def _timestep(self, ids: Array, k: Array, factor: float) -> Array:
        """The time (B,) that the network is told in step k."""
        masked = (ids == self.mask_id).astype(self.steps.ratio.dtype)
        if self.options.legacy_timestep:
            return jnp.broadcast_to((self.options.steps - 1 - k).astype(masked.dtype), masked[:, 0].shape)
        return factor * masked.mean(1)

    def _doubled(self, x: Array) -> Array:
        return jnp.concatenate([x, x]) if self.guided else x


def make_decoder(
    predictor: Predictor, options: Sampling, steps: Steps, noise: StepNoise, counts: tuple[int, ...]
) -> Decoder:
    """A decoder, with guidance if the predictor has a `null` condition and the options ask for it."""
    null = predictor.null if options.guidance_scale > 0 else None
    plain = dict(predictor.condition) if null is None else doubled_condition(predictor.condition, null)
    prepared = plain if predictor.prepare is None else predictor.prepare(plain)
    return Decoder(predictor, options, steps, noise, counts, prepared, plain, null is not None)


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Array]:
    """Conditions (2B, ...): the given ones, then those of `null`, which have B rows or one; those that are
    not in `null` are repeated."""
    doubled = {}
    for name, value in condition.items():
        without = jnp.broadcast_to(null[name], value.shape).astype(value.dtype) if name in null else value
        doubled[name] = jnp.concatenate([value, without])
    return doubled


def first_positions(to_predict: Array, n: int) -> Array:
    """n positions (B, n) of each row of `to_predict` (B, L): True ones first, then False ones, in order."""
    return jnp.argsort(to_predict.astype(jnp.uint8), axis=1, descending=True, stable=True)[:, :n]


def steps_like(steps: Steps, ids: Array) -> Steps:
    """The schedule as arrays, which JAX moves to the ids' device."""
    del ids
    return Steps(*[jnp.asarray(value) for value in steps])


def run_steps(
    step: Callable[[Array, State], tuple[State, Array, Array]],
    state: State,
    first: int,
    last: int,
    goes_on: Callable[[State], Array] | None = None,
) -> tuple[State, Sampled]:
    """Run `step(k, state) -> (state, inputs, drawn)` for `first` <= k < `last`, or before that until
    `goes_on(state)` is False; return the final state and the steps, whose tokens are those that the last one
    has drawn. What is not taken repeats `state[0]`."""
    T = last - first

    def body(state: State, k: Array) -> tuple[State, tuple[Array, Array]]:
        state, got, guess = step(k, state)
        return state, (got, guess)

    if goes_on is None:
        state, (inputs, drawn) = jax.lax.scan(body, state, jnp.arange(first, last))
        return state, Sampled(drawn[-1], inputs, drawn, jnp.asarray(T))

    def is_running(carry: Any) -> Array:
        return (carry[0] < T) & goes_on(carry[1])

    def record(carry: Any) -> Any:
        k, state, inputs, drawn = carry
        state, got, guess = step(first + k, state)
        return k + 1, state, inputs.at[k].set(got), drawn.at[k].set(guess)

    empty = jnp.zeros((T, *state[0].shape), state[0].dtype)
    carry = (jnp.zeros((), jnp.int32), state, empty, empty)
    taken, state, inputs, drawn = jax.lax.while_loop(is_running, record, carry)
    is_rest = (jnp.arange(T) >= taken)[:, None, None]
    inputs, drawn = (jnp.where(is_rest, state[0], x) for x in (inputs, drawn))
    return state, Sampled(drawn[-1], inputs, drawn, taken)
