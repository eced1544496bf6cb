"""Compare what two roads answered to one question."""
