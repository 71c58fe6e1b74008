"""Outputs for inputs of which parts are hidden, permuted or drawn anew."""
