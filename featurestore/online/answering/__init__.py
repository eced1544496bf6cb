"""Answer questions from online state."""
