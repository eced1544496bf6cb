"""Measurements: the same work done by this library and by the best that was written by hand for others."""
