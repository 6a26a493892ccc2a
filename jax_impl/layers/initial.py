"""First values of layers: the families' tables have them, so that what nnx would draw is left out.

To trace a random draw for every parameter would make building ten times as slow.
"""

from typing import Any

from flax import nnx

ZEROS = nnx.initializers.zeros_init()


class _NoKeys:
    def params(self) -> None:
        """No key."""


NO_KEYS: Any = _NoKeys()
"""What a layer whose first values are not random gets for `nnx.Rngs`."""
