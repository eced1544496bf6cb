"""Audits: recompute served rows offline, compare them, and prove the causes of differences."""
