"""The channels of alerts: webhook, mail and command. Delivery is retried a few times, unless an error is final.

A message is JSON: the body of the POST request, the text of the mail, the standard input of the command.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import smtplib
import ssl
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from email.message import EmailMessage
from http.client import HTTPException, InvalidURL
from typing import Any, NoReturn, Protocol
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

import msgspec

from featurestore.config import AlertsConfig, SmtpConfig
from featurestore.core.retrying import Backoff, retry
from featurestore.core.temporal import Clock

_ATTEMPTS = 3
_BACKOFF = Backoff(0.5)
_TIMEOUT_SECONDS = 20.0
_SHOWN = 500
_TOO_MANY = 429
_SMTPS_PORT = 465
_SMTP_PORT = 25

Message = Mapping[str, Any]


class NotDeliveredError(Exception):
    """A message was not delivered.

    Attributes:
        is_final: Whether a retry would fail the same way.
    """

    def __init__(self, problem: str, *, is_final: bool) -> None:
        super().__init__(problem)
        self.is_final = is_final


class Channel(Protocol):
    """A channel that delivers messages.

    Attributes:
        name: Its name in records.
    """

    name: str

    def deliver(self, message: Message) -> str:
        """Deliver a message; return problems with single receivers, an empty text if there are none.

        Raises:
            NotDeliveredError: No receiver accepted the message.
        """
        ...


def channels_of(settings: AlertsConfig, clock: Clock) -> tuple[Channel, ...]:
    """Return the configured channels."""
    channels: list[Channel] = []
    if settings.webhook:
        channels.append(Webhook(settings.webhook, settings.webhook_secret_env, clock))
    if settings.smtp is not None:
        channels.append(Mail(settings.smtp))
    if settings.command:
        channels.append(Command(settings.command))
    return tuple(channels)


def deliver(channel: Channel, message: Message) -> tuple[bool, str]:
    """Deliver a message, with retries; return whether it was delivered, and the problems."""
    try:
        return True, retry(
            lambda: channel.deliver(message), is_transient=_may_pass, attempts=_ATTEMPTS, backoff=_BACKOFF
        )
    except NotDeliveredError as error:
        return False, str(error)


def _may_pass(error: Exception) -> bool:
    return isinstance(error, NotDeliveredError) and not error.is_final


class _NoRedirects(HTTPRedirectHandler):
    """A redirected POST request has not delivered the message: the redirect would be followed with GET."""

    def redirect_request(self, *_: Any) -> None:
        """Follow no redirect."""


_OPENER = build_opener(_NoRedirects)


class Webhook:
    """Posts messages, signed: ``X-Featurestore-Signature: t=SECONDS,v1=HMAC-SHA256("SECONDS." + body)``."""

    name = "webhook"

    def __init__(self, url: str, secret_env: str, clock: Clock) -> None:
        self._url = url
        self._secret_env = secret_env
        self._clock = clock

    def deliver(self, message: Message) -> str:
        """Post a message; it is delivered if the answer is 2xx."""
        body = msgspec.json.encode(message)
        headers = {"Content-Type": "application/json"}
        secret = os.environ.get(self._secret_env, "")
        if secret:
            seconds = str(self._clock.now_us() // 1_000_000)
            signature = hmac.new(secret.encode(), f"{seconds}.".encode() + body, hashlib.sha256).hexdigest()
            headers["X-Featurestore-Signature"] = f"t={seconds},v1={signature}"
        try:
            _OPENER.open(Request(self._url, body, headers), timeout=_TIMEOUT_SECONDS).close()
        except HTTPError as error:
            error.close()
            is_final = error.code != _TOO_MANY and error.code < 500
            raise NotDeliveredError(f"the webhook answered {error.code} {error.reason}", is_final=is_final) from None
        except (ValueError, InvalidURL):  # their texts contain the address, which is a secret
            raise NotDeliveredError("the address of the webhook is not valid", is_final=True) from None
        except (OSError, HTTPException) as error:
            raise NotDeliveredError(str(error) or type(error).__name__, is_final=False) from error
        return ""


class Mail:
    """Sends messages by mail."""

    name = "mail"

    def __init__(self, smtp: SmtpConfig) -> None:
        self._smtp = smtp

    def deliver(self, message: Message) -> str:
        """Mail a message to all receivers; it is delivered if the server accepts it for at least one."""
        try:
            mail = self._mail(message)
        except ValueError as error:
            raise NotDeliveredError(str(error), is_final=True) from error
        try:
            with self._connected() as server:
                if self._smtp.starttls:
                    server.starttls(context=ssl.create_default_context())
                if self._smtp.user:
                    server.login(self._smtp.user, os.environ.get(self._smtp.password_env, ""))
                refused = server.send_message(mail)
        except smtplib.SMTPRecipientsRefused as error:
            _fail(_refusals(error.recipients), (code for code, _ in error.recipients.values()), error)
        except smtplib.SMTPResponseException as error:
            _fail(str(error), [error.smtp_code], error)
        except OSError as error:
            raise NotDeliveredError(str(error), is_final=False) from error
        return _refusals(refused)

    def _mail(self, message: Message) -> EmailMessage:
        mail = EmailMessage()
        mail["Subject"] = " ".join(str(message["text"]).split())[:200]
        mail["From"], mail["To"] = self._smtp.sender, ", ".join(self._smtp.to)
        mail.set_content(msgspec.json.format(msgspec.json.encode(message), indent=2).decode())
        return mail

    def _connected(self) -> smtplib.SMTP:
        smtp = self._smtp
        if smtp.tls:
            context = ssl.create_default_context()
            return smtplib.SMTP_SSL(smtp.host, smtp.port or _SMTPS_PORT, timeout=_TIMEOUT_SECONDS, context=context)
        return smtplib.SMTP(smtp.host, smtp.port or _SMTP_PORT, timeout=_TIMEOUT_SECONDS)


def _fail(problem: str, codes: Iterable[int], error: Exception) -> NoReturn:
    """Raise ``NotDeliveredError`` for answers of a mail server; codes from 500 on are final."""
    raise NotDeliveredError(problem, is_final=all(code >= 500 for code in codes)) from error


def _refusals(refused: Mapping[str, tuple[int, bytes]]) -> str:
    """List the receivers that a mail server refused, with its answers."""
    return "; ".join(
        f"{receiver} was refused: {code} {answer.decode(errors='replace')}"
        for receiver, (code, answer) in sorted(refused.items())
    )


class Command:
    """Runs a command with the message on its standard input; exit code 0 means delivered."""

    name = "command"

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    def deliver(self, message: Message) -> str:
        """Run the command."""
        body = msgspec.json.encode(message)
        try:
            subprocess.run(self._arguments, input=body, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS)
        except subprocess.CalledProcessError as error:
            raise NotDeliveredError(_command_problem(error, error.stderr), is_final=False) from error
        except subprocess.TimeoutExpired as error:
            raise NotDeliveredError(_command_problem(error, error.stderr), is_final=False) from error
        except OSError as error:
            raise NotDeliveredError(str(error), is_final=True) from error
        return ""


def _command_problem(error: Exception, stderr: bytes | None) -> str:
    """Describe the end of a command, with the last part of its standard error."""
    output = (stderr or b"").decode(errors="replace").strip()[-_SHOWN:]
    return f"{error} It wrote: {output}" if output else str(error)
