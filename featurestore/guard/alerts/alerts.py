"""Sending each piece of news once per channel.

The registry records what each channel has sent, so the same problem is sent once, however often and by whichever
process it is found. A channel that fails is retried after the next run; the other channels do not send again. Problems
that last are sent again as reminders.
"""

from __future__ import annotations

from typing import Any

from featurestore.config import NEVER, AlertsConfig
from featurestore.core.temporal import Clock, duration_us
from featurestore.guard.alerts.channels import Channel, channels_of, deliver
from featurestore.guard.alerts.news import News
from featurestore.registry import AlertRecord, Registry

DELIVERED = "delivered"
UNDELIVERED = "undelivered"


class Alerts:
    """Sends news to the configured channels."""

    def __init__(self, settings: AlertsConfig, registry: Registry, clock: Clock) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._channels = channels_of(settings, clock)
        self._remind_us = 0 if settings.remind == NEVER else duration_us(settings.remind)

    def send(self, news: News) -> str:
        """Send a message through every channel that has not sent this news yet.

        After the first message of a problem, a channel sends another one for every new problem, a reminder if problems
        last longer than the configured time, and one message when all problems are gone.

        Returns:
            ``"delivered"``, ``"undelivered"`` if any channel failed, or an empty text if there was nothing to send.
        """
        sent = {record.way: record for record in self._registry.alerts(news.key)} if self._channels else {}
        outcomes = [self._send(channel, news, sent.get(channel.name)) for channel in self._channels]
        return UNDELIVERED if UNDELIVERED in outcomes else DELIVERED if DELIVERED in outcomes else ""

    def _send(self, channel: Channel, news: News, last: AlertRecord | None) -> str:
        """Send news through one channel if it is new there, and record the delivery."""
        sent = () if last is None else last.told
        sent_at_us = 0 if last is None else last.told_at_us
        is_known = set(news.state) <= set(sent)
        is_over = bool(sent) and not news.state
        is_reminder = is_known and not is_over and self._is_due(sent, sent_at_us)
        if is_known and not is_over and not is_reminder:
            return ""
        is_delivered, problem = deliver(channel, self._message(news, is_over=is_over, is_reminder=is_reminder))
        now_us = self._clock.now_us()
        if is_delivered:
            # Problems that come and go are sent once, until all are gone or a reminder lists the present ones.
            kept = news.state if is_over or is_reminder else tuple(sorted({*sent, *news.state}))
            sent, sent_at_us = kept, now_us
        self._registry.set_alert(AlertRecord(news.key, channel.name, sent, sent_at_us, now_us, problem))
        return DELIVERED if is_delivered else UNDELIVERED

    def _is_due(self, sent: tuple[str, ...], sent_at_us: int) -> bool:
        return bool(sent) and 0 < self._remind_us <= self._clock.now_us() - sent_at_us

    def _message(self, news: News, *, is_over: bool, is_reminder: bool) -> dict[str, Any]:
        text = f"{news.service or news.job}: {'still ' if is_reminder else ''}{news.verdict}"
        text += " again" if is_over else f": {news.text}"
        url = self._settings.report_url
        return {
            "kind": news.kind,
            "job": news.job,
            "service": news.service,
            "verdict": news.verdict,
            "recovered": is_over,
            "reminder": is_reminder,
            "text": text if news.id is None else f"{text} ({news.kind} {news.id})",
            "id": news.id,
            "report": url.format(kind=news.kind, service=news.service, id=news.id) if url and news.id else "",
            **news.details,
        }
