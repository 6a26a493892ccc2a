"""Lossless compression with a model: an entropy coder, codes for latents and for levels, and the file."""
