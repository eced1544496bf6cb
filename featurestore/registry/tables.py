"""The registry's tables, and the version that says what shape they have."""

from __future__ import annotations

import sqlalchemy as sa

SCHEMA_VERSION = 7
"""Raise it when a table changes its shape."""

METADATA = sa.MetaData()
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

META = sa.Table(
    "registry_meta",
    METADATA,
    sa.Column("name", sa.String(50), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
OBJECTS = sa.Table(
    "registry_objects",
    METADATA,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(500), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
)
HISTORY = sa.Table(
    "registry_history",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.String(20), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("applied_at_us", sa.BigInteger, nullable=False),
    sa.Index("registry_history_by_name", "kind", "name", "id"),
    sa.Index("registry_history_by_fingerprint", "kind", "fingerprint"),
)
RUNS = sa.Table(
    "registry_runs",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("view", sa.String(500), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("finished_at_us", sa.BigInteger, nullable=False),
    sa.Column("from_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("event_count", sa.BigInteger, nullable=False),
    sa.Column("entity_count", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False, server_default="done"),
    sa.Column("problem", sa.Text, nullable=False, server_default=""),
    sa.Column("row_count", sa.BigInteger, nullable=False, server_default="-1"),
    sa.Column("content", sa.String(64), nullable=False, server_default=""),
    sa.Column("files", sa.String(64), nullable=False, server_default=""),
    sa.Index("registry_runs_by_view", "view", "id"),
    sa.Index("registry_runs_by_fingerprint", "fingerprint", "id"),
    sa.Index("registry_runs_by_files", "files"),
)
RUN_COLUMNS_SINCE_2 = ("outcome", "problem", "row_count", "content", "files")
FILES = sa.Table(
    "registry_files",
    METADATA,
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("document", sa.Text, nullable=False),
)
LIVE = sa.Table(
    "registry_live",
    METADATA,
    sa.Column("service", sa.String(500), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("is_decided", sa.Integer, nullable=False, server_default="1"),
    sa.Column("withdrawn", sa.Text, nullable=False, server_default="[]"),
)
LIVE_COLUMNS_SINCE_7 = ("is_decided", "withdrawn")
LIVE_CHANGES = sa.Table(
    "registry_live_changes",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("service", sa.String(500), nullable=False),
    sa.Column("previous", sa.String(64), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column("verb", sa.String(20), nullable=False),
    sa.Column("changed_by", sa.String(500), nullable=False),
    sa.Index("registry_live_changes_by_service", "service", "id"),
)
ANSWERING = sa.Table(
    "registry_answering",
    METADATA,
    sa.Column("kind", sa.String(20), primary_key=True),
    sa.Column("name", sa.String(500), primary_key=True),
    sa.Column("fingerprint", sa.String(64), nullable=False),
)
AUDITS = sa.Table(
    "registry_audits",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("service", sa.String(500), nullable=False),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("ran_at_us", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.String(50), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Column("kind", sa.String(20), nullable=False, server_default="log"),
    sa.Index("registry_audits_by_service", "service", "id"),
)
DRIFTS = sa.Table(
    "registry_drifts",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("service", sa.String(500), nullable=False),
    sa.Column("since_us", sa.BigInteger, nullable=False),
    sa.Column("until_us", sa.BigInteger, nullable=False),
    sa.Column("ran_at_us", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.String(50), nullable=False),
    sa.Column("report", sa.Text, nullable=False),
    sa.Index("registry_drifts_by_service", "service", "id"),
)
JOBS = sa.Table(
    "registry_jobs",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("started_at_us", sa.BigInteger, nullable=False),
    sa.Column("finished_at_us", sa.BigInteger, nullable=False),
    sa.Column("outcome", sa.String(20), nullable=False),
    sa.Column("said", sa.Text, nullable=False),
    sa.Index("registry_jobs_by_name", "name", "id"),
)
AUDIT_COLUMNS_SINCE_5 = ("kind",)
ALERTS = sa.Table(
    "registry_alerts",
    METADATA,
    sa.Column("job", sa.String(500), primary_key=True),
    sa.Column("way", sa.String(50), primary_key=True),
    sa.Column("told", sa.Text, nullable=False),
    sa.Column("told_at_us", sa.BigInteger, nullable=False),
    sa.Column("tried_at_us", sa.BigInteger, nullable=False),
    sa.Column("problem", sa.Text, nullable=False),
)
CERTIFICATES = sa.Table(
    "registry_certificates",
    METADATA,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("service", sa.String(500), nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False),
    sa.Column("ran_at_us", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.String(50), nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("registry_certificates_by_service", "service", "id"),
)
LEASES = sa.Table(
    "registry_leases",
    METADATA,
    sa.Column("name", sa.String(500), primary_key=True),
    sa.Column("token", sa.String(32), nullable=False),
    sa.Column("until", sa.DateTime(timezone=True), nullable=False),
)
REVISION = "revision"
VERSION = "schema_version"
