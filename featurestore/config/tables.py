"""Tables of the configuration. Their docstrings are the page ``docs/configuration.md``."""

from __future__ import annotations

from collections.abc import Iterator
from string import Formatter
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from featurestore.config.values import NEVER, Bytes, Duration, Length, Moment, Reminder, Schedule
from featurestore.core.errors import listing
from featurestore.core.urls import HIDDEN

DEFAULT_POLICY = "default"
"""The key in ``policies`` that stands for all services."""

REPORT_PARTS = ("kind", "service", "id")
"""Placeholders in the address of a report."""


class Table(BaseModel):
    """A table of the configuration: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def overridden(self, other: Self) -> Self:
        """Return this table with the keys that another one sets; inner tables are merged in the same way."""
        changes = {name: getattr(other, name) for name in other.model_fields_set}
        tables = {name: table for name, table in changes.items() if isinstance(table, Table)}
        inner = {name: getattr(self, name).overridden(table) for name, table in tables.items()}
        return self.model_copy(update=changes | inner)


class ServingLogConfig(Table):
    """What the serving log keeps.

    Attributes:
        enabled: Whether answers are logged.
        flush_seconds: Answers reach the disk at most this much later: a crash can lose the answers of this time.
        share: Share of all entities that is logged, chosen by a hash of their keys.
        retention_days: How many days rows are kept; ``None`` keeps them for ever.
    """

    enabled: bool = True
    flush_seconds: float = Field(default=1.0, gt=0)
    share: float = Field(default=1.0, gt=0, le=1)
    retention_days: int | None = Field(default=None, ge=1)


class ServerConfig(Table):
    """Where the server listens, and its limits.

    Attributes:
        host: Address it listens on.
        port: Port it listens on; 0 chooses a free one.
        max_body: Largest request, in bytes.
        max_push: Largest request that pushes events, in bytes; its events may have four times that size unpacked.
        max_events: Most events of one request.
        max_entities: Most entities of one request.
        shutdown_seconds: How long running requests may take to finish when the server is stopped.
        auth: ``"keys"``: every request needs an API key. ``"none"``: everybody who reaches the server may do anything.
        workers: Number of processes that serve.
        on_fingerprint_mismatch: How to answer a caller whose ``expected_fingerprint`` is not that of the live plan:
            ``"refuse"`` answers 409, ``"flag"`` answers and sets the header ``X-Fingerprint-Mismatch``.
        max_requests: Most requests that run at the same time in one process; further ones are answered 503.
        deadline_seconds: How long a request may take, except to materialize; after that it is answered 504. By then
            its body must have arrived.
        max_head: Largest request line and headers, in bytes.
        head_seconds: How long the head of a request may take to arrive: counted from the opening of a connection, and
            on one that was used before from the head's first byte. It is never longer than ``deadline_seconds``.
        keep_alive_seconds: How long a connection stays open between two requests. A load balancer must close idle
            connections before the server does, and most do so after 60 s.
        max_connections: Most connections of one process. It is lowered where the process may open few files.
        drain_seconds: How long the server still answers after SIGTERM, while ``/readyz`` answers 503 and every answer
            closes its connection: the time that load balancers need to notice. If ``None``, it is 5 s, and 0 on a
            loopback address.
        max_columns: Most columns of one push, those of all its events together.
        max_answer: Largest answer, in bytes, before it is compressed.
        compress_from: Answers of at least this many bytes are compressed for callers that accept it.
        metrics: Whether ``/metrics`` is served; if ``None``, it is where ``prometheus-client`` is installed.
        traces: Whether requests are OpenTelemetry spans.
        log_requests: Whether every request is logged as a line of JSON on the standard output.
        log_entity_keys: Whether such a line has entity keys as they are; otherwise it has hashes of them.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    max_body: Bytes = Field(default=1_000_000, gt=0)
    max_push: Bytes = Field(default=16_000_000, gt=0)
    max_events: int = Field(default=100_000, gt=0)
    max_entities: int = Field(default=1_000, gt=0)
    shutdown_seconds: int = Field(default=10, ge=0)
    auth: Literal["keys", "none"] = "keys"
    workers: int = Field(default=1, ge=1)
    on_fingerprint_mismatch: Literal["refuse", "flag"] = "refuse"
    max_requests: int = Field(default=256, gt=0)
    deadline_seconds: float = Field(default=30.0, gt=0)
    max_head: Bytes = Field(default=64_000, ge=1_000)
    head_seconds: float = Field(default=10.0, gt=0)
    keep_alive_seconds: float = Field(default=75.0, gt=0)
    max_connections: int = Field(default=10_000, gt=0)
    drain_seconds: float | None = Field(default=None, ge=0)
    max_columns: int = Field(default=2_000, gt=0)
    max_answer: Bytes = Field(default=64_000_000, gt=0)
    compress_from: Bytes = Field(default=32_000, gt=0)
    metrics: bool | None = None
    traces: bool = False
    log_requests: bool = False
    log_entity_keys: bool = False


class ToleranceConfig(Table):
    """How far the numbers of a feature may differ; any of the three suffices.

    Attributes:
        absolute: Largest absolute difference.
        relative: Largest difference divided by the reference.
        ulps: Largest count of floats between the two.
    """

    absolute: float = Field(default=0.0, ge=0)
    relative: float = Field(default=0.0, ge=0)
    ulps: int = Field(default=0, ge=0)


class DriftPolicyConfig(Table):
    """When distributions of a service count as drifted. A key that is unset has the default of the library.

    Attributes:
        significance: Probability of reporting drift that is chance.
        correction: How p-values are corrected for their number.
        least_effects: Measures that are tested, each with the least distance that matters.
        fixed: Names of fixed thresholds; if there are any, they alone decide.
        allowed_features: How many features may drift.
        least_rows: Rows that both samples must have.
    """

    significance: float | None = Field(default=None, gt=0, lt=1)
    correction: Literal["holm", "benjamini-hochberg", "none"] | None = None
    least_effects: dict[str, Annotated[float, Field(ge=0)]] | None = None
    fixed: tuple[str, ...] | None = None
    allowed_features: int | None = Field(default=None, ge=0)
    least_rows: int | None = Field(default=None, ge=1)


class PolicyConfig(Table):
    """The differences that audits of a service allow.

    A key that is not set for a service has the value of its definition (``FeatureService(policy=…)``), else that of
    the policy ``default``.

    Attributes:
        allowed_share: Share of a feature's values that may differ.
        warn_share: Share from which on allowed differences are a warning.
        least_rows: Rows that must have been compared.
        allow_skipped: Whether an audit may pass with rows that could not be compared.
        tolerances: How far numbers may differ, by feature; ``"*"`` stands for all others.
        causes: Share of all values that may differ for a cause, by its name.
        max_audit_age: How long ago the newest answers that an audit compared may have been served, for the gate.
        max_state_age: Up to how long ago online state of views with ``continuous()`` must be complete, for the gate;
            views with ``every(…)`` promise it themselves.
        drift: When distributions of the service count as drifted.
    """

    allowed_share: float = Field(default=0.0, ge=0, le=1)
    warn_share: float | None = Field(default=None, ge=0, le=1)
    least_rows: int = Field(default=1, ge=0)
    allow_skipped: bool = False
    tolerances: dict[str, ToleranceConfig] = {}
    causes: dict[str, Annotated[float, Field(ge=0, le=1)]] = {}
    max_audit_age: Length = "7d"
    max_state_age: Length = "1d"
    drift: DriftPolicyConfig = DriftPolicyConfig()


class ScheduleConfig(Table):
    """What ``featurestore run`` does beside the refreshes that views declare.

    Attributes:
        refresh: How often views are refreshed that declare ``continuous()``; ``"never"`` refreshes none of them.
        compact: How often pushed events that are older than this move to files; ``"never"`` moves none.
        gc: How often online state is removed that no plan needs; ``"never"`` removes none.
        keep_plans: How many plans of each service are kept to roll back to when online state is removed, and are kept
            complete by pushes; at least one.
        jitter: Jobs begin up to this much after their time, each always by the same delay, so that not all begin at
            once.
    """

    refresh: Schedule = "1m"
    compact: Schedule | None = "1d"
    gc: Schedule = "1d"
    keep_plans: int = Field(default=1, ge=1)
    jitter: Duration = "0s"

    @field_validator("compact")
    @classmethod
    def _is_text(cls, value: str | None) -> str:
        """Read a null, which JSON in a variable can hold, as ``"never"``."""
        return NEVER if value is None else value


class _JobConfig(Table):
    """A repeated job about a service."""

    service: str
    every: Length | None = None
    cron: str | None = None
    since: Moment = "24h"

    @model_validator(mode="after")
    def _has_one_trigger(self) -> Self:
        if (self.every is None) == (self.cron is None):
            raise ValueError("set either every or cron")
        return self


class AuditJobConfig(_JobConfig):
    """An audit that is repeated.

    Attributes:
        service: Name of the service.
        every: Interval, counted from the Unix epoch: ``"1h"``.
        cron: Crontab line in UTC, in place of ``every``.
        since: How far back the audit looks, or the instant it looks back to.
        sample: Share of the entities that is compared; ``None`` compares all.
    """

    sample: float | None = Field(default=None, gt=0, le=1)


class DriftJobConfig(_JobConfig):
    """A comparison of distributions that is repeated.

    Attributes:
        service: Name of the service.
        reference: The reference: a training set, its manifest, or another period (``"14d..7d"``).
        every: Interval, counted from the Unix epoch: ``"1d"``.
        cron: Crontab line in UTC, in place of ``every``.
        since: How far back the comparison looks, or the instant it looks back to.
        recompute: Whether to recompute what was served, which separates skew from a changed population.
    """

    reference: str = Field(min_length=1)
    recompute: bool = False


class SmtpConfig(Table):
    """How alerts are mailed.

    Attributes:
        host: Mail server.
        port: Its port; if left out, 465 with ``tls`` and 25 without.
        sender: Address that alerts come from.
        to: Addresses that alerts are sent to.
        tls: Whether the connection is encrypted from its first byte on (``smtps``).
        starttls: Whether it is encrypted after it was opened unencrypted.
        user: User to log in as; empty to not log in.
        password_env: Environment variable of the password.
    """

    host: str
    port: int | None = Field(default=None, gt=0, le=65_535)
    sender: str
    to: list[str] = Field(min_length=1)
    tls: bool = False
    starttls: bool = False
    user: str = ""
    password_env: str = "ALERT_SMTP_PASSWORD"

    @model_validator(mode="after")
    def _is_encrypted_once(self) -> SmtpConfig:
        if self.tls and self.starttls:
            raise ValueError("set tls (encrypted from the start) or starttls, not both")
        return self


class AlertsConfig(Table):
    """Where alerts are sent about audits that do not pass and jobs that fail, and when that is over.

    Attributes:
        webhook: URL that messages are posted to.
        webhook_secret_env: Environment variable of the secret that signs them.
        smtp: How they are mailed.
        command: Program and arguments; it gets the message on its standard input.
        report_url: Address of a report: ``{service}`` stands for the service, ``{id}`` for the report's number in the
            registry, ``{kind}`` for ``audit`` or ``drift``.
        remind: Interval at which a continuing problem is reported again; ``"never"`` or ``"0s"`` reports it once.
        one_shot: Whether ``featurestore audit`` sends alerts without the flag ``--alert``.
    """

    webhook: str | None = None
    webhook_secret_env: str = "ALERT_WEBHOOK_SECRET"
    smtp: SmtpConfig | None = None
    command: list[str] = []
    report_url: str = ""
    remind: Reminder = "1d"
    one_shot: bool = False

    @field_validator("webhook")
    @classmethod
    def _is_a_web_address(cls, value: str | None) -> str | None:
        try:
            address = urlsplit(value or "https://host")
        except ValueError:  # its message holds a part of the address
            raise ValueError("write an address: https://host/path") from None
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("write an address that begins with https:// or http://")
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Hide the webhook: its address suffices to post to it."""
        for name, value in super().__repr_args__():
            yield name, HIDDEN if name == "webhook" and value is not None else value

    @field_validator("report_url")
    @classmethod
    def _is_a_template(cls, value: str) -> str:
        for _, name, form, _ in Formatter().parse(value):
            if name is not None and (name not in REPORT_PARTS or form):
                raise ValueError(f"'{{{name}}}' is not a placeholder. {listing('Names', REPORT_PARTS, wrong=name)}")
        return value
