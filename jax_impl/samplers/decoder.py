"""What every sampler of tokens shares: the network under guidance, and the loop's results."""

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
State = tuple[Array | None, ...]
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
class Decoder:
    """A network and its condition, doubled if `guided`: first the given ones, then those that stand for none.

    The critic gets `plain`, the condition before the network prepared it. `steps`, `noise` and `needed` are
    the numbers, the noise and the positions that are drawn of every step.
    """

    network: Network
    options: Sampling
    codebook_size: int
    mask_id: int
    condition: Condition
    plain: Condition
    guided: bool
    critic: Critic | None
    steps: Steps
    noise: StepNoise
    needed: tuple[int, ...]

    @property
    def n_outputs(self) -> int:
        """Logits that are drawn from."""
        return self.codebook_size + self.options.legacy_mask_token

    def draw(
        self,
        ids: Array,
        wanted: Array,
        k: Array,
        embedding: Array | None,
        *,
        temperature: Array | None = None,
        anew: bool = False,
    ) -> Drawn:
        """Draw those of ids (B, L) that are `wanted` in step k, at most `needed[k]`, under guidance.

        `temperature` divides the logits once they are filtered. `anew`: tokens that are not wanted are drawn,
        too, as far as the network's logits are there. `embedding` conditions the network on its last pass;
        both halves get that of the given condition.
        """
        B, L = ids.shape
        condition, sizes = self.condition, sorted(set(self.needed))
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        if sizes == [L]:
            logits, aux = self.network(self._doubled(ids), condition, outputs=self.n_outputs)
            noise = self.noise(k, None)
            fresh, logits = self._choose(logits, noise["tokens"], k, temperature)
            tokens = fresh if anew else jnp.where(wanted, fresh, ids)
            log_p = log_probability(logits, tokens)
        else:
            x, aux = self.network.hidden(self._doubled(ids), condition)
            branches = [partial(self._at, x, ids, wanted, k, n, temperature, anew) for n in sizes]
            size = jnp.searchsorted(jnp.asarray(sizes), jnp.asarray(self.needed)[k])
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
        wanted: Array,
        k: Array,
        n: int,
        temperature: Array | None,
        anew: bool,
    ) -> tuple[Array, Array]:
        """Tokens and log-probabilities (B, L), drawn at n positions, of the network's states."""
        rows = jnp.arange(len(ids))[:, None]
        positions = first_positions(wanted, n)
        behind = self._doubled(positions) + (x.shape[1] - ids.shape[1])  # the class token
        logits = self.network.logits(rows_at(x, behind), self.n_outputs)
        noise = self.noise(k, positions)["tokens"]
        fresh, logits = self._choose(logits, noise, k, temperature)
        tokens = fresh if anew else jnp.where(wanted[rows, positions], fresh, ids[rows, positions])
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
        kept = filtered(logits, self.options)
        return draw_tokens(kept if temperature is None else kept / temperature, noise), logits

    def critic_scores(self, ids: Array, factor: Array) -> Array:
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
    critic: Critic | None,
    prepare: Callable[[Condition], Condition] | None,
    steps: Steps,
    noise: StepNoise,
    needed: tuple[int, ...],
) -> Decoder:
    """Guidance is on where `null` is given and the options ask for it."""
    guided = null is not None and options.guidance_scale > 0
    plain = doubled_condition(condition, null) if null is not None and guided else dict(condition)
    prepared = plain if prepare is None else prepare(plain)
    return Decoder(
        network, options, codebook_size, mask_id, prepared, plain, guided, critic, steps, noise, needed
    )


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Array]:
    """Conditions (2B, ...): the given ones, then those of `null`, of B rows or one; what is not in `null` is
    repeated."""
    doubled = {}
    for name, value in condition.items():
        without = jnp.broadcast_to(null[name], value.shape).astype(value.dtype) if name in null else value
        doubled[name] = jnp.concatenate([value, without])
    return doubled


def first_positions(wanted: Array, n: int) -> Array:
    """n positions (B, n) of each row of `wanted` (B, L), the wanted ones first, each kind in order."""
    return jnp.argsort(wanted.astype(jnp.uint8), axis=1, descending=True, stable=True)[:, :n]


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
