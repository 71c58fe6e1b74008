"""Linear maps: what a rule may do with a node that is a weighted sum of its input."""
