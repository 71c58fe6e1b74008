"""Attributions of inner layers."""
