"""What is applied, and what was done with it: definitions' plans, where sources lie, runs, audits and drift."""

from featurestore.registry.records import (
    DONE,
    FAILED,
    INTERRUPTED,
    RUNNING,
    Applied,
    AuditRecord,
    CertificateRecord,
    Change,
    Draft,
    DriftRecord,
    FileRead,
    JobRecord,
    Kind,
    Live,
    Outcome,
    RunRecord,
)
from featurestore.registry.registry import Registry
from featurestore.registry.source_documents import accepts_pushes, read_source, source_draft

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "RUNNING",
    "Applied",
    "AuditRecord",
    "CertificateRecord",
    "Change",
    "Draft",
    "DriftRecord",
    "FileRead",
    "JobRecord",
    "Kind",
    "Live",
    "Outcome",
    "Registry",
    "RunRecord",
    "accepts_pushes",
    "read_source",
    "source_draft",
]
