"""Compute what would have been served in a world that differs by one assumption."""
