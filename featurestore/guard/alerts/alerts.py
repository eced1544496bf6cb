"""What is news to whom.

What was told last, by each way of telling, is in the registry, so the same is told once however often it is found, also
by another process. A way that fails is tried again after the next run, alone. What goes on is told again after a while.
"""

from __future__ import annotations

from typing import Any

from featurestore.config import NEVER, AlertsConfig
from featurestore.core.temporal import Clock, duration_us
from featurestore.guard.alerts.news import News
from featurestore.guard.alerts.ways import Way, deliver, ways_of
from featurestore.registry import AlertRecord, Registry

DELIVERED = "delivered"
UNDELIVERED = "undelivered"


class Alerts:
    """Tells what is news."""

    def __init__(self, settings: AlertsConfig, registry: Registry, clock: Clock) -> None:
        self._settings = settings
        self._registry = registry
        self._clock = clock
        self._ways = ways_of(settings, clock)
        self._remind_us = 0 if settings.remind == NEVER else duration_us(settings.remind)

    def tell(self, news: News) -> str:
        """Tell what was found, by every way by which it is not known yet.

        Whoever was told that something is wrong is told when something else is, too; when it has gone on for so long
        that a reminder is due; and when all is well again.

        Returns:
            ``"delivered"``, ``"undelivered"`` if any way failed, or nothing if there was nothing to tell.
        """
        known = {record.way: record for record in self._registry.alerts(news.key)} if self._ways else {}
        outcomes = [self._tell(way, news, known.get(way.name)) for way in self._ways]
        return UNDELIVERED if UNDELIVERED in outcomes else DELIVERED if DELIVERED in outcomes else ""

    def _tell(self, way: Way, news: News, last: AlertRecord | None) -> str:
        """Tell by one way, and keep what is known there from then on."""
        told = () if last is None else last.told
        told_at_us = 0 if last is None else last.told_at_us
        is_known = set(news.state) <= set(told)
        is_over = bool(told) and not news.state
        is_reminder = is_known and not is_over and self._is_due(told, told_at_us)
        if is_known and not is_over and not is_reminder:
            return ""
        is_delivered, said = deliver(way, self._message(news, is_over=is_over, is_reminder=is_reminder))
        now_us = self._clock.now_us()
        if is_delivered:
            # Things that come and go are told once: until all is well, or a reminder says what is wrong by then.
            kept = news.state if is_over or is_reminder else tuple(sorted({*told, *news.state}))
            told, told_at_us = kept, now_us
        self._registry.set_alert(AlertRecord(news.key, way.name, told, told_at_us, now_us, said))
        return DELIVERED if is_delivered else UNDELIVERED

    def _is_due(self, told: tuple[str, ...], told_at_us: int) -> bool:
        return bool(told) and 0 < self._remind_us <= self._clock.now_us() - told_at_us

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
