"""Messages by mail, against real mail servers on this machine; by webhook; and by a command."""

import email
import hashlib
import hmac
import json
import socket
import ssl
from contextlib import contextmanager
from email.policy import default
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from featurestore.config import AlertsConfig
from featurestore.core.temporal import FixedClock
from featurestore.guard.alerts import (
    DELIVERED,
    UNDELIVERED,
    Alerts,
    news_of_audit,
)
from featurestore.guard.alerts.channels import channels_of, deliver
from featurestore.guard.audit.report import AuditReport
from tests.tls import make_certificates

PASSWORD = "a secret"


class Mailbox:
    """Takes mails; keeps who sent them to whom, and what they say."""

    def __init__(self):
        self.mails, self.refused = [], {}

    async def handle_RCPT(self, _server, _session, envelope, address, _options):  # noqa: N802
        if address in self.refused:
            return f"{self.refused[address]} no such box"
        envelope.rcpt_tos.append(address)
        return "250 known"

    async def handle_DATA(self, _server, _session, envelope):  # noqa: N802  # the name is the package's
        mail = email.message_from_bytes(envelope.content, policy=default)
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, mail))
        return "250 taken"


@contextmanager
def mail_server(certificates: Path | None = None, *, is_encrypted_from_the_start: bool = False):
    """Run a mail server; with certificates it talks only encrypted, after STARTTLS only to people who log in."""
    mailbox, options = Mailbox(), {}
    if certificates is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / "server.pem", certificates / "server.key")

        def is_known(_server, _session, _envelope, _mechanism, given):
            return AuthResult(success=(given.login, given.password) == (b"audits", PASSWORD.encode()), handled=False)

        if is_encrypted_from_the_start:
            options = {"ssl_context": context}
        else:
            options = {"tls_context": context, "require_starttls": True}
            options |= {"authenticator": is_known, "auth_required": True}
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


SMTP = {"host": "127.0.0.1", "sender": "audits@shop.test", "to": ["a@shop.test", "b@shop.test"]}


class MailAlerts:
    """Sends reports by mail."""

    def __init__(self, registry, port, **options):
        self._alerts = Alerts(AlertsConfig(smtp=SMTP | {"port": port} | options), registry, FixedClock(0))

    def send(self, report):
        return self._alerts.send(news_of_audit(report))


alerts = MailAlerts


def problem(registry):
    (record,) = registry.alerts()
    return record.problem


def test_a_mail_says_what_was_found_once_and_that_it_is_over(registry):
    with mail_server() as (port, mailbox):
        told = alerts(registry, port)
        assert told.send(report("pass")) == ""
        assert told.send(report("fail", "3 of 90 values differ\n(ü)")) == DELIVERED
        assert told.send(report("fail", "4 of 90 values differ")) == "", "the same state of affairs is no news"
        assert told.send(report("pass")) == DELIVERED
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
        assert alerts(registry, port, **known).send(report("fail", "no trust")) == UNDELIVERED
        assert "certificate verify failed" in problem(registry)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        assert alerts(registry, port, **known | {"starttls": False}).send(report("fail", "in the open")) == UNDELIVERED
        assert alerts(registry, port, **known | {"user": "nobody"}).send(report("fail", "a stranger")) == UNDELIVERED
        assert mailbox.mails == []
        assert alerts(registry, port, **known).send(report("fail", "at last")) == DELIVERED
    assert [mail["subject"] for _, _, mail in mailbox.mails] == ["model: fail: at last"]


def test_a_server_that_is_away_is_told_of_and_tried_again(registry):
    with mail_server() as (port, _):
        pass
    assert alerts(registry, port).send(report("fail")) == UNDELIVERED
    assert "refused" in problem(registry)
    with mail_server() as (port, mailbox):
        assert alerts(registry, port).send(report("fail")) == DELIVERED
    assert len(mailbox.mails) == 1


def test_a_server_may_be_encrypted_from_the_start(registry, tmp_path, monkeypatch):
    certificates = make_certificates(tmp_path)
    with mail_server(certificates, is_encrypted_from_the_start=True) as (port, mailbox):
        assert alerts(registry, port, tls=True).send(report("fail", "no trust")) == UNDELIVERED
        assert "certificate verify failed" in problem(registry)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates / "ca.pem"))
        assert alerts(registry, port, tls=True).send(report("fail", "at last")) == DELIVERED
    assert len(mailbox.mails) == 1


def test_receivers_that_a_server_does_not_take_are_named_and_the_others_get_the_mail_once(registry):
    with mail_server() as (port, mailbox):
        mailbox.refused["b@shop.test"] = 550
        for _ in range(2):
            alerts(registry, port).send(report("fail"))
        assert [receivers for _, receivers, _ in mailbox.mails] == [["a@shop.test"]]
        assert problem(registry) == "b@shop.test was refused: 550 no such box"
        mailbox.refused["a@shop.test"] = 451
        assert alerts(registry, port).send(report("pass")) == UNDELIVERED
        assert problem(registry).startswith("a@shop.test was refused: 451 no such box; b@shop.test")


def delivered(**settings):
    (way,) = channels_of(AlertsConfig(**settings), FixedClock(0))
    return deliver(way, {"text": "x"})


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_post_that_is_sent_on_to_a_page_did_not_arrive(hook, status):
    """A proxy's page for logging in was asked for, and taken for the receiver."""
    hook.answers.append(status)
    is_delivered, said = delivered(webhook=hook.url)
    assert not is_delivered
    assert str(status) in said
    assert hook.asked == [("POST", "/hook")]


@pytest.mark.parametrize(
    ("answers", "tries"), [([400], 1), ([404], 1), ([429], 2), ([503, 500], 3), ([b"hello\r\n\r\n"], 2), ([b""], 2)]
)
def test_only_what_may_pass_is_tried_again(hook, answers, tries):
    hook.answers += answers
    assert delivered(webhook=hook.url)[0] == (tries > len(answers))
    assert len(hook.asked) == tries


def test_what_never_works_is_said_after_three_tries(hook):
    hook.answers += [503] * 9
    assert delivered(webhook=hook.url) == (False, "the webhook answered 503 Service Unavailable")
    assert len(hook.asked) == 3


def test_messages_are_signed(hook, monkeypatch):
    monkeypatch.setenv("ALERT_WEBHOOK_SECRET", "secret")
    assert delivered(webhook=hook.url) == (True, "")
    ((_, body, signature),) = hook.got
    seconds, given = (part.partition("=")[2] for part in signature.split(","))
    assert given == hmac.new(b"secret", f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()


def test_what_a_command_says_before_it_fails_is_kept():
    assert delivered(command=["sh", "-c", "echo no route to pager >&2; exit 3"]) == (
        False,
        "Command '['sh', '-c', 'echo no route to pager >&2; exit 3']' returned non-zero exit status 3."
        " It wrote: no route to pager",
    )
    is_delivered, said = delivered(command=["/no/such/program"])
    assert not is_delivered
    assert "No such file" in said
