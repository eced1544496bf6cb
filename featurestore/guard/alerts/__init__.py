"""Alerts about audits, drift and jobs, by webhook, mail or a command."""

from featurestore.guard.alerts.alerts import DELIVERED, UNDELIVERED, Alerts
from featurestore.guard.alerts.news import (
    News,
    news_of_audit,
    news_of_drift,
    news_of_job,
)

__all__ = ["DELIVERED", "UNDELIVERED", "Alerts", "News", "news_of_audit", "news_of_drift", "news_of_job"]
