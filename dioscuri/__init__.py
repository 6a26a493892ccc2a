"""Everything that is not tensor code: configuration, plans, data, checkpoints, metrics and the run loop.

Nothing below this package imports torch or jax; `tests/host/test_imports.py` enforces it.
"""

__version__ = "0.1.0"
