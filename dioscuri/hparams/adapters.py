"""Options of low-rank adapters."""

from dataclasses import dataclass

from dioscuri.hparams.schema import option


@dataclass(frozen=True, kw_only=True)
class LoRA:
    """`[lora]`: low-rank adapters (Hu et al. 2021) of a trained model, which alone are trained and saved."""

    rank: int = option(0, low=0, high=2**12, doc="rank of the adapters; 0: train the whole network")
    alpha: float = option(
        0.0, low=0, high=2**16, needs=("rank", ()), doc="adapters are scaled by alpha / rank; 0: the rank"
    )
    targets: tuple[str, ...] = option(
        ("attention", "feed_forward"),
        needs=("rank", ()),
        doc="dense layers with adapters: 'attention' and 'feed_forward' for those of every transformer "
        "layer, and names of layers or the ends of such names",
    )
    dropout: float = option(
        0.0,
        low=0,
        high=0.99,
        needs=("rank", ()),
        doc="probability that a channel of an adapter's input is dropped, in all positions of an example",
    )
    base: str = option(
        "",
        path=True,
        model=True,
        needs=("rank", ()),
        doc="the trained model: its run folder logs-<name>, the folder it was saved to, or the name of a "
        "shipped model",
    )

    @property
    def scale(self) -> float:
        """Factor of the adapters' products."""
        return (self.alpha or self.rank) / self.rank
