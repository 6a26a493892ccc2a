"""What `dioscuri.torch` and `dioscuri.jax` are made of: load, new and train for either twin."""
