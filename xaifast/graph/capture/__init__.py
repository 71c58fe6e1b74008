"""A user's model and example inputs become a functional graph of ATen operations."""
