"""What explainers share: arguments, targets, batches, draws, evaluation, and the built graph."""
