"""The implementation of `dioscuri.torch` and `dioscuri.jax`: load, new and train for either twin."""
