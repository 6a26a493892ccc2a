"""Fast non-autoregressive image models, each written twice, in PyTorch and in JAX.

    from dioscuri import torch as dio        # or: from dioscuri import jax as dio

    model = dio.load("torch_impl/logs-digits")
    pictures = model.generate(n=16, seed=1)

`import dioscuri` loads neither framework; `dioscuri.torch` loads PyTorch alone and `dioscuri.jax` JAX alone.
All other modules are shared by both and import no framework.
"""

from dioscuri.errors import UserError

__version__ = "0.2.0"

__all__ = ["UserError", "__version__"]
