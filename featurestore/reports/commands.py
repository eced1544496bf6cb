"""The commands that say more about what an audit found."""

from __future__ import annotations

import shlex

from featurestore.guard.audit.report import AuditReport, Mismatch


def explain_command(report: AuditReport, found: Mismatch) -> str:
    """Return the command that explains one of an audit's values, ready to be pasted into a shell.

    What the serving log keeps is found there by its request; otherwise the command says the request inputs.

    Example:
        >>> at = "2026-01-02T00:00:00Z"
        >>> row = Mismatch("spend__last", "r-1", 0, {"user": "ann"}, at, "1", "2", "", "", False, {})
        >>> report = AuditReport("churn", "", "", "", 1, 1, 0, 0, {}, (), (row,), ())
        >>> explain_command(report, row)
        'featurestore explain churn user=ann --at 2026-01-02T00:00:00Z --feature spend__last --request-id r-1'
    """
    said = found.keys if report.kind == "log" else {**found.keys, **found.requests}
    fields = [f"{name}={value}" for name, value in said.items() if value is not None]
    given = ["explain", report.service, *fields, "--at", found.as_of, "--feature", found.feature]
    if report.kind == "log":
        given += ["--request-id", found.request_id]
    return shlex.join(["featurestore", *given])
