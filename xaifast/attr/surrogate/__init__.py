"""Simple models that are fitted around an input."""
