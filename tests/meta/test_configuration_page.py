"""The page of the configuration has every key, as the models have it, and what it says of variables is so."""

import re
from pathlib import Path

from featurestore.config import Config
from tests.meta.configuration_page import PATH, page

COMMAND = "python -m tests.meta.configuration_page"


def test_the_page_is_that_of_the_models():
    assert PATH.read_text(encoding="utf-8") == page(), f"write it anew: {COMMAND}"


def test_the_example_of_the_page_is_read(tmp_path):
    (text,) = re.findall(r"```toml.*?\n(.*?)```", page(), re.DOTALL)
    (tmp_path / "featurestore.toml").write_text(text)
    config = Config.load(tmp_path)
    assert (config.server.port, config.audits[0].every, config.data) == (8080, "1h", Path("/srv/features"))


def test_the_variables_of_the_page_override_their_keys(tmp_path, monkeypatch):
    (tmp_path / "featurestore.toml").write_text("[alerts]\ncommand = ['true']\n")
    named = dict(re.findall(r"\| `(\w+)`<br>`(FEATURESTORE_\w+)`", page()))
    values = {
        "threads": "3",
        "audits": '[{"service": "delay_model", "every": "1h"}]',
        "policies": '{"default": {"allowed_share": 0.5}}',
        "flush_seconds": "0.5",
        "gc": "never",
        "command": '["sh"]',
    }
    for key, value in values.items():
        monkeypatch.setenv(named[key], value)
    monkeypatch.setenv("FEATURESTORE_ALERTS__SMTP", '{"host": "mail", "sender": "a@x", "to": ["b@x"]}')
    monkeypatch.setenv("FEATURESTORE_ALERTS__SMTP__STARTTLS", "true")
    config = Config.load(tmp_path)
    assert (config.threads, config.audits[0].service, config.policy("any").allowed_share) == (3, "delay_model", 0.5)
    assert (config.serving_log.flush_seconds, config.schedule.gc, config.alerts.command) == (0.5, "never", ["sh"])
    assert config.alerts.smtp is not None
    assert (config.alerts.smtp.host, config.alerts.smtp.starttls) == ("mail", True)
