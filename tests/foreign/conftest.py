"""Logs of other systems."""

collect_ignore = ["feast_program.py"]
"""Run by an interpreter that has Feast."""
