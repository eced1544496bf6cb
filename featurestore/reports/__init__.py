"""Rendering reports: one module per report, with text for a terminal and an HTML page."""
