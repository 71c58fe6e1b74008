"""Recurrent layers as nodes: one output each, packed and padded sequences."""
