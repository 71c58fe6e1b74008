"""Changes of a part of the input: which positions of each node they reach."""
