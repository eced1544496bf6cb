"""Mail about audits, against a real mail server on this machine."""

import email
import json
import socket
import ssl
from contextlib import contextmanager
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from featurestore import FeatureStore
from featurestore.alerting import DELIVERED, UNDELIVERED, Alerts
from featurestore.config import AlertsConfig
from featurestore.skew.report import AuditReport
from featurestore.temporal import FixedClock
from tests.tls import make_certificates

PASSWORD = "a secret"


class Mailbox:
    """Takes mails; keeps who sent them to whom, and what they say."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  # the name is the package's
        mail = email.message_from_bytes(envelope.content, policy=default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, mail))
        return "250 taken"


@contextmanager
def mail_server(certificates: Path | None = None):
    """Run a mail server; with certificates it talks only encrypted, and only to people who log in."""
    mailbox, options = Mailbox(), {}
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")

        def is_known(_server, _session, _envelope, _mechanism, given):
            return AuthResult(success=(given.login, given.password) == (b"audits", PASSWORD.encode()), handled=False)

        options = {"tls_context": context, "require_starttls": True, "authenticator": is_known, "auth_required": True}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    controller = Controller(mailbox, hostname="127.0.0.1", port=port, **options)
    controller.start()
    try:
        yield port, mailbox
    finally:
        controller.stop()
        controller.loop.close()


def report(verdict, *reasons):
    instant = "2024-05-01T00:00:00Z"
    return AuditReport("model", instant, instant, instant, 0, 0, 0, 0, {}, (), verdict=verdict, reasons=reasons)


@pytest.fixture
def registry(tmp_path):
    with FeatureStore.local(tmp_path / "store") as store:
        yield store.registry


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("featurestore.alerting._FIRST_PAUSE_SECONDS", 0.01)


def alerts(registry, port, **options):
    smtp = {"host": "127.0.0.1", "port": port, "sender": "audits@shop.test", "to": ["a@shop.test", "b@shop.test"]}
    return Alerts(AlertsConfig(smtp=smtp | options), registry, FixedClock(0))


def test_a_mail_says_what_was_found_once_and_that_it_is_over(registry):
    with mail_server() as (port, mailbox):
        told = alerts(registry, port)
        assert told.tell(report("pass")) == ""
        assert told.tell(report("fail", "3 of 90 values differ\n(ü)")) == DELIVERED
        assert told.tell(report("fail", "4 of 90 values differ")) == "", "the same state of affairs is no news"
        assert told.tell(report("pass")) == DELIVERED
    (sender, receivers, failed), (_, _, over) = mailbox.mails
    assert (sender, receivers) == ("audits@shop.test", ["a@shop.test", "b@shop.test"])
    assert failed["subject"] == "model: fail: 3 of 90 values differ (ü)"
    said = json.loads(failed.get_content())
    assert (said["service"], said["verdict"], said["recovered"]) == ("model", "fail", False)
    assert json.loads(over.get_content())["recovered"] is True


def test_mail_is_encrypted_and_logged_in_for_where_the_server_wants_it(registry, tmp_path, monkeypatch):
    certificates = make_certificates(tmp_path)
    monkeypatch.setenv("ALERT_SMTP_PASSWORD", PASSWORD)
    with mail_server(certificates) as (port, mailbox):
        known = {"starttls": True, "user": "audits"}
        assert alerts(registry, port, **known).tell(report("fail", "no trust")) == UNDELIVERED
        assert "certificate verify failed" in registry.jobs("alert model")[0].said
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        assert alerts(registry, port, **known | {"starttls": False}).tell(report("fail", "in the open")) == UNDELIVERED
        assert alerts(registry, port, **known | {"user": "nobody"}).tell(report("fail", "a stranger")) == UNDELIVERED
        assert mailbox.mails == []
        assert alerts(registry, port, **known).tell(report("fail", "at last")) == DELIVERED
    assert [mail["subject"] for _, _, mail in mailbox.mails] == ["model: fail: at last"]


def test_a_server_that_is_away_is_told_of_and_tried_again(registry):
    with mail_server() as (port, _):
        pass
    assert alerts(registry, port).tell(report("fail")) == UNDELIVERED
    assert registry.jobs("alert model")[0].said.startswith("mail: ")
    with mail_server() as (port, mailbox):
        assert alerts(registry, port).tell(report("fail")) == DELIVERED
    assert len(mailbox.mails) == 1
