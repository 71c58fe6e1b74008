"""Proofs that a captured graph is still the model: its values, code, gradient, rows and paths."""
