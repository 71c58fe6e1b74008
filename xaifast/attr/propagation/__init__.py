"""Relevance, or another message, handed back through the graph of the model."""
