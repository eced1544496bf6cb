"""Why served values differ: one small module per family of causes, each proven by recomputation."""
