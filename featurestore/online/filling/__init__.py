"""Fold events of sources into online state."""
