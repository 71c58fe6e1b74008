"""Machinery of the explainers: arguments, targets, batches, draws, evaluation, built graphs."""
