"""The verdicts of every policy of the guard."""

PASS = "pass"
WARN = "warn"
FAIL = "fail"
CANNOT_TELL = "cannot tell"
