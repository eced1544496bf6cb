"""What is applied, and what was done with it: definitions' plans, where sources lie, runs and audits."""

from featurestore.registry.records import Applied, AuditRecord, Change, Draft, Kind, Outcome, RunRecord
from featurestore.registry.registry import Registry
from featurestore.registry.source_documents import accepts_pushes, read_source, source_draft

__all__ = [
    "Applied",
    "AuditRecord",
    "Change",
    "Draft",
    "Kind",
    "Outcome",
    "Registry",
    "RunRecord",
    "accepts_pushes",
    "read_source",
    "source_draft",
]
