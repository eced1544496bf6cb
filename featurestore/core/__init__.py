"""Carry values, instants and errors; know nothing of features."""
