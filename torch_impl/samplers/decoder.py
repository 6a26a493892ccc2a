"""Base of all token samplers: the network with guidance, and the loop over steps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dioscuri.families.maskgit.decoding import Steps
from dioscuri.families.token_models.masking_options import Sampling
from torch_impl.layers.precision import at_least_float32
from torch_impl.samplers.choice import draw_tokens, filtered, guide, log_probability, logit_of
from torch_impl.samplers.noise import StepNoise

Condition = Mapping[str, Tensor]
Network = Any
"""A model, or a function like one: ids (B, L) and a condition -> logits (B, L, V) and intermediates; with
`positions` and `outputs`, only those logits."""
Critic = Callable[[Tensor, Condition], Tensor]
"""(ids (B, L), condition) -> logits (B, L), high where a token looks wrong."""
State = tuple[Any, ...]
"""The state of a sampler between steps."""


class Sampled(NamedTuple):
    """`tokens` (B, L) and, for every step, the network's `inputs` (T, B, L) and the tokens that it predicted,
    `drawn` (T, B, L). `taken` of the T steps were needed: the others repeat the tokens."""

    tokens: Tensor
    inputs: Tensor
    drawn: Tensor
    taken: int


class Drawn(NamedTuple):
    """`tokens` (B, L); `log_p` (B, L), log-probabilities of sampled tokens, with the sampler 'logits' their
    logits; the step's `noise`; and the embedding for self-conditioning, if any."""

    tokens: Tensor
    log_p: Tensor
    noise: Mapping[str, Tensor]
    embedding: Tensor | None


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
        ids: Tensor,
        to_predict: Tensor,
        k: int,
        embedding: Tensor | None,
        *,
        temperature: Tensor | None = None,
        resample: bool = False,
    ) -> Drawn:
        """Sample the positions `to_predict` of ids (B, L) in step k, at most `counts[k]` of them.

        `temperature` divides the filtered logits. `resample`: the other tokens are sampled too, if their
        logits are computed. `embedding` conditions the network on its last pass; with guidance, both halves
        get that of the given condition.
        """
        B, L = ids.shape
        n, condition = self.counts[k], self.condition
        positions = first_positions(to_predict, n) if n < L else None
        if embedding is not None:
            condition = {**condition, "self": self._doubled(embedding)}
        if self.predictor.timestep_factor is not None:
            timestep = self._timestep(ids, k, self.predictor.timestep_factor)
            condition = {**condition, "timestep": self._doubled(timestep)}
        doubled = (self._doubled(ids), condition)
        if positions is None:
            logits, aux = self.predictor.network(*doubled, outputs=self.n_outputs)
            current, to_predict_here = ids, to_predict
        else:
            logits, aux = self.predictor.network(
                *doubled, positions=self._doubled(positions), outputs=self.n_outputs
            )
            current, to_predict_here = (torch.gather(x, 1, positions) for x in (ids, to_predict))
        noise = self.noise(k, positions)
        sampled, logits = self._choose(logits, noise["tokens"], k, temperature)
        tokens = sampled if resample else torch.where(to_predict_here, sampled, current)
        log_p = self._log_p(logits, tokens)
        if positions is not None:
            tokens = ids.scatter(1, positions, tokens)
            log_p = log_p.new_zeros(B, L).scatter(1, positions, log_p)
        return Drawn(
            tokens, log_p, noise, None if embedding is None else aux["embed"][:B].to(embedding.dtype)
        )

    def _choose(
        self, logits: Tensor, noise: Tensor, k: int, temperature: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, n) sampled from the network's logits, and guided logits
        (B, n, K) in at least float32."""
        logits = at_least_float32(logits)
        logits = guide(logits, self.steps.guidance[k]) if self.guided else logits
        logits = logits * self.steps.logit_scale[k]
        allowed = filtered(logits, self.options, k, self.steps.top_p)
        return draw_tokens(allowed if temperature is None else allowed / temperature, noise), logits

    def _log_p(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities, or logits, of tokens."""
        return (logit_of if self.options.sampler == "logits" else log_probability)(logits, tokens)

    def critic_scores(self, ids: Tensor, factor: Tensor) -> Tensor:
        """The critic's guided logits (B, L)."""
        assert self.predictor.critic is not None
        scores = at_least_float32(self.predictor.critic(self._doubled(ids), self.plain))
        return guide(scores, factor) if self.guided else scores

    def has_masked(self, state: State) -> Tensor:
        """Whether a token of the ids, `state[0]` (B, L), is masked."""
        return (state[0] == self.mask_id).any()

    def _timestep(self, ids: Tensor, k: int, factor: float) -> Tensor:
        """The time (B,) that the network is told in step k."""
        masked = (ids == self.mask_id).to(self.steps.ratio.dtype)
        if self.options.legacy_timestep:
            return torch.full_like(masked[:, 0], self.options.steps - 1 - k)
        return factor * masked.mean(1)

    def _doubled(self, x: Tensor) -> Tensor:
        return torch.cat([x, x]) if self.guided else x


def make_decoder(
    predictor: Predictor, options: Sampling, steps: Steps, noise: StepNoise, counts: tuple[int, ...]
) -> Decoder:
    """A decoder, with guidance if the predictor has a `null` condition and the options ask for it."""
    null = predictor.null if options.guidance_scale > 0 else None
    plain = dict(predictor.condition) if null is None else doubled_condition(predictor.condition, null)
    prepared = plain if predictor.prepare is None else predictor.prepare(plain)
    return Decoder(predictor, options, steps, noise, counts, prepared, plain, null is not None)


def doubled_condition(condition: Condition, null: Condition) -> dict[str, Tensor]:
    """Conditions (2B, ...): the given ones, then those of `null`, which have B rows or one; those that are
    not in `null` are repeated."""
    doubled = {}
    for name, value in condition.items():
        without = null[name].to(value.dtype).expand(value.shape) if name in null else value
        doubled[name] = torch.cat([value, without])
    return doubled


def first_positions(to_predict: Tensor, n: int) -> Tensor:
    """n positions (B, n) of each row of `to_predict` (B, L): True ones first, then False ones, in order."""
    return torch.argsort(to_predict.to(torch.uint8), dim=1, descending=True, stable=True)[:, :n]


def steps_like(steps: Steps, ids: Tensor) -> Steps:
    """The schedule as tensors on the device of the ids."""
    return Steps(*[torch.as_tensor(value, device=ids.device) for value in steps])


def run_steps(
    step: Callable[[int, State], tuple[State, Tensor, Tensor]],
    state: State,
    first: int,
    last: int,
    goes_on: Callable[[State], Tensor] | None = None,
) -> tuple[State, Sampled]:
    """Run `step(k, state) -> (state, inputs, drawn)` for `first` <= k < `last`, or before that until
    `goes_on(state)` is False; return the final state and the steps, whose tokens are those that the last one
    has drawn. What is not taken repeats `state[0]`."""
    inputs, drawn = [], []
    for k in range(first, last):
        if goes_on is not None and not bool(goes_on(state)):
            break
        state, got, guess = step(k, state)
        inputs.append(got)
        drawn.append(guess)
    taken = len(drawn)
    rest = [state[0]] * (last - first - taken)
    tokens = [*drawn, *rest][-1]
    return state, Sampled(tokens, torch.stack(inputs + rest), torch.stack(drawn + rest), taken)
