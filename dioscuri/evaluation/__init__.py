"""Comparison of two sets of pictures, or of their features."""
