"""Programs that are measured, each in a process of its own; the last line they print is JSON with their seconds."""
