"""Compare what was served with what the training road gives."""
