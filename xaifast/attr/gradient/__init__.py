"""Gradients at the input, and their averages under noise."""
