"""Telling people about audits: by webhook, by mail, by a command; once per state of affairs, and again when it is over.

A message is JSON. What was told last of a service is in the registry, so the same causes are told once however often an
audit finds them, also by another process; what could not be delivered is tried again after the next audit.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import smtplib
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import msgspec

from featurestore.config import AlertsConfig
from featurestore.registry import JobRecord, Registry
from featurestore.skew.policy import PASS
from featurestore.skew.report import AuditReport
from featurestore.temporal import Clock

DELIVERED = "delivered"
UNDELIVERED = "undelivered"

_TRIES = 3
_FIRST_PAUSE_SECONDS = 0.5
_TIMEOUT_SECONDS = 20.0


class Alerts:
    """Tells of audits what is news."""

    def __init__(self, settings: AlertsConfig, registry: Registry, clock: Clock) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock

    def tell(self, report: AuditReport) -> str:
        """Tell what an audit found, if it is something else than what was told last.

        Returns:
            ``"delivered"``, ``"undelivered"``, or nothing if there was nothing to tell or nobody to tell it to.
        """
        ways = self._ways()
        state = ", ".join([report.verdict, *sorted(report.causes)])
        told = self._last_told(report.service)
        if not ways or state == told or (told is None and report.verdict == PASS):
            return ""
        message = self._message(report, is_over=report.verdict == PASS)
        began_us = self._clock.now_us()
        problems = [problem for way in ways if (problem := _repeated(way, message))]
        outcome = UNDELIVERED if problems else DELIVERED
        said = "; ".join(problems) if problems else state
        record = JobRecord(_name(report.service), began_us, self._clock.now_us(), outcome, said)
        self._registry.add_job(record)
        return outcome

    def _last_told(self, service: str) -> str | None:
        records = self._registry.jobs(_name(service))
        return next((record.said for record in records if record.outcome == DELIVERED), None)

    def _message(self, report: AuditReport, *, is_over: bool) -> dict[str, Any]:
        text = "the roads agree again" if is_over else "; ".join(report.reasons[:3])
        return {
            "service": report.service,
            "verdict": report.verdict,
            "recovered": is_over,
            "text": f"{report.service}: {report.verdict}: {text}",
            "since": report.since,
            "until": report.until,
            "different": report.different,
            "causes": report.causes,
            "fixes": list(dict.fromkeys(finding.fix for finding in report.findings if finding.fix))[:3],
            "report": self._settings.report_url.format(service=report.service) if self._settings.report_url else "",
        }

    def _ways(self) -> list[Callable[[Mapping[str, Any]], None]]:
        settings = self._settings
        ways: list[Callable[[Mapping[str, Any]], None]] = []
        if settings.webhook:
            ways.append(self._post)
        if settings.smtp is not None:
            ways.append(self._mail)
        if settings.command:
            ways.append(self._call)
        return ways

    def _post(self, message: Mapping[str, Any]) -> None:
        """Post the message, signed: ``X-Featurestore-Signature: t=SECONDS,v1=HMAC-SHA256("SECONDS." + body)``."""
        body = msgspec.json.encode(message)
        headers = {"Content-Type": "application/json"}
        secret = os.environ.get(self._settings.webhook_secret_env, "")
        if secret:
            seconds = str(self._clock.now_us() // 1_000_000)
            signature = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
            headers["X-Featurestore-Signature"] = f"t={seconds},v1={signature}"
        urlopen(Request(str(self._settings.webhook), body, headers), timeout=_TIMEOUT_SECONDS).close()

    def _mail(self, message: Mapping[str, Any]) -> None:
        smtp = self._settings.smtp
        assert smtp is not None
        mail = EmailMessage()
        mail["Subject"] = " ".join(str(message["text"]).split())[:200]
        mail["From"], mail["To"] = smtp.sender, ", ".join(smtp.to)
        mail.set_content(msgspec.json.format(msgspec.json.encode(message), indent=2).decode())
        with smtplib.SMTP(smtp.host, smtp.port, timeout=_TIMEOUT_SECONDS) as server:
            if smtp.starttls:
                server.starttls(context=ssl.create_default_context())
            if smtp.user:
                server.login(smtp.user, os.environ.get(smtp.password_env, ""))
            server.send_message(mail)

    def _call(self, message: Mapping[str, Any]) -> None:
        """Run the command with the message on its standard input."""
        subprocess.run(
            self._settings.command,
            input=msgspec.json.encode(message),
            check=True,
            capture_output=True,
            timeout=_TIMEOUT_SECONDS,
        )


def _repeated(way: Callable[[Mapping[str, Any]], None], message: Mapping[str, Any]) -> str:
    """Try a few times; return why it did not work, nothing if it did."""
    pause, problem = _FIRST_PAUSE_SECONDS, ""
    for left in reversed(range(_TRIES)):
        try:
            way(message)
        except (OSError, URLError, smtplib.SMTPException, subprocess.SubprocessError) as error:
            problem = f"{way.__name__.strip('_')}: {error}"
            if left:
                time.sleep(pause)
                pause *= 2
        else:
            return ""
    return problem


def _name(service: str) -> str:
    return f"alert {service}"
