"""Drift: compare the distributions of served features with those of a reference."""
