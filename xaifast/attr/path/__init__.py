"""Gradients along paths from a baseline to the input."""
