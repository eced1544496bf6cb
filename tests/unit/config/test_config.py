"""Configuration: one file, overrides by variables, and errors that name the place."""

import os
import re
from pathlib import Path

import pytest

from featurestore.config import Config, read_bytes
from featurestore.core.errors import ConfigError


@pytest.fixture(autouse=True)
def no_overrides(monkeypatch):
    for name in [name for name in os.environ if name.startswith("FEATURESTORE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def written(tmp_path):
    def write(text: str) -> Path:
        file = tmp_path / "featurestore.toml"
        file.write_text(text)
        return file

    return write


def test_an_empty_file_gives_the_defaults_under_its_folder(written, tmp_path):
    config = Config.load(written(""))
    assert config.registry == f"sqlite:///{tmp_path}/featurestore/registry.db"
    assert config.online == f"sqlite:///{tmp_path}/featurestore/online.db"
    assert config.data == tmp_path / "featurestore"
    assert config.memory_limit is None
    assert config.threads == Config(threads=0).threads == (os.cpu_count() or 1)


def test_a_folder_stands_for_the_file_in_it(written, tmp_path):
    written("threads = 3")
    assert Config.load(tmp_path).threads == 3


def test_relative_paths_count_from_the_folder_of_the_file(written, tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    config = Config.load(written('data = "kept"\nonline = "sqlite:///deep/online.db?timeout=3"'))
    assert config.data == tmp_path / "kept"
    assert config.online == f"sqlite:///{tmp_path}/deep/online.db?timeout=3"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:////absolute/file.db", "postgresql://host/base"])
def test_urls_without_a_relative_path_stay(written, url):
    assert Config.load(written(f'registry = "{url}"')).registry == url


def test_a_variable_overrides_the_file(written, monkeypatch):
    file = written("threads = 3\n[serving_log]\nflush_seconds = 0.5\nenabled = false")
    monkeypatch.setenv("FEATURESTORE_THREADS", "5")
    monkeypatch.setenv("FEATURESTORE_SERVING_LOG__FLUSH_SECONDS", "0.25")
    config = Config.load(file)
    assert config.threads == 5
    assert config.serving_log.flush_seconds == 0.25
    assert not config.serving_log.enabled


def test_a_local_store_keeps_everything_under_its_folder(tmp_path):
    config = Config.local(tmp_path / "store")
    assert config.registry == f"sqlite:///{tmp_path}/store/registry.db"
    assert config.data == tmp_path / "store"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("registri = 1", "featurestore.toml", "Did you mean 'registry'?"),
        ("folder = '/'", "featurestore.toml", "there is no key 'folder'"),
        ("[server]\nprot = 1", "featurestore.toml", "there is no key 'server.prot'"),
        ("[server]\nport = 'http'", "key 'server.port'", "valid integer"),
        ("memory_limit = '1 potato'", "key 'memory_limit'", "is not an amount of memory"),
        ("memory_limit = '1KB'", "key 'memory_limit'", "greater than or equal"),
        ("[serving_log]\nflush_seconds = 0", "key 'serving_log.flush_seconds'", "greater than 0"),
        ("= 3", "featurestore.toml", "line 1"),
        ("[schedule]\nrefresh = 'banana'", "key 'schedule.refresh'", "'banana' is not a duration"),
        ("[schedule]\nrefresh = '0s'", "key 'schedule.refresh'", "a length of zero"),
        ("[policies.m]\nmax_audit_age = 'banana'", "key 'policies.m.max_audit_age'", "is not a duration"),
        ("[policies.m]\nmax_state_age = '-1d'", "key 'policies.m.max_state_age'", "is not a duration"),
        ("[[audits]]\nservice = 'm'\nevery = '0s'", "key 'audits.0.every'", "a length of zero"),
        ("[[audits]]\nservice = 'm'\nevery = '1h'\nsince = 'yesterday'", "key 'audits.0.since'", "not an instant"),
        ("[[audits]]\nservice = 'm'\nevry = '1h'", "featurestore.toml", "there is no key 'audits.0.evry'"),
        ("[alerts.smtp]\nhots = 'h'\nsender = 's'\nto = ['t']\nhost = 'h'", "featurestore.toml", "'alerts.smtp.hots'"),
        ("[alerts]\nwebhook = 'hooks.example.com/x'", "key 'alerts.webhook'", "https://"),
        ("[alerts]\nwebhook = 'file:///etc/hostname'", "key 'alerts.webhook'", "https://"),
        ("[alerts]\nreport_url = 'https://x/{ids}'", "key 'alerts.report_url'", "Did you mean 'id'?"),
        ("[alerts]\nreport_url = 'https://x/{service'", "key 'alerts.report_url'", "expected '}'"),
        ("[alerts]\nremind = 'often'", "key 'alerts.remind'", "is not a duration"),
        ("[schedule]\ncompact = 'sometimes'", "key 'schedule.compact'", "or 'never'"),
        ("data = 's3://bucket/features'", "key 'data'", "'s3://' is not a path on this machine"),
        ("data = 'abfss://c@account.dfs.core.windows.net/x'", "key 'data'", "not a path on this machine"),
        ("data = 'file:///var/features'", "key 'data'", "not a path on this machine"),
        ("temp_folder = 'gs://bucket/tmp'", "key 'temp_folder'", "not a path on this machine"),
        ("registry = 'sqlite:///s3://bucket/registry.db'", "key 'registry'", "not a path on this machine"),
        ("event_log = 'sqlite+pysqlite:///gs://bucket/log.db'", "key 'event_log'", "not a path on this machine"),
        ("online = 'sqlite:///hdfs://host/online.db'", "key 'online'", "not a path on this machine"),
        (
            "[alerts.smtp]\nhost = 'h'\nsender = 's'\nto = ['t']\ntls = true\nstarttls = true",
            "key 'alerts.smtp'",
            "not both",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named(written, text, place, problem):
    with pytest.raises(ConfigError) as raised:
        Config.load(written(text))
    assert place in raised.value.where
    assert problem in str(raised.value)


def test_an_address_in_a_variable_is_no_folder_either(written, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_DATA", "s3://bucket/features")
    with pytest.raises(ConfigError, match=r"FEATURESTORE_DATA.*not a path on this machine"):
        Config.load(written(""))


def test_a_local_store_is_refused_at_an_address():
    with pytest.raises(ConfigError, match="not a path on this machine"):
        Config.local("s3://bucket/features")


@pytest.mark.parametrize("key", ["refresh", "compact", "gc"])
def test_what_is_done_again_and_again_can_be_turned_off(written, monkeypatch, key):
    """In the file, and in a variable, where it comes before the file."""
    assert getattr(Config.load(written(f"[schedule]\n{key} = 'never'")).schedule, key) == "never"
    monkeypatch.setenv(f"FEATURESTORE_SCHEDULE__{key.upper()}", "never")
    assert getattr(Config.load(written(f"[schedule]\n{key} = '5m'")).schedule, key) == "never"


def test_reminders_can_be_turned_off(written):
    assert Config.load(written("[alerts]\nremind = 'never'")).alerts.remind == "never"


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: the file is not there"):
        Config.load(tmp_path / "nowhere.toml")


def test_a_variable_that_overrides_nothing_is_an_error(written, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_REGISTY", "sqlite://")
    with pytest.raises(ConfigError, match=r"FEATURESTORE_REGISTY.*Did you mean 'FEATURESTORE_REGISTRY'"):
        Config.load(written(""))


def service_links(service: str, *, protocol: str = "tcp", port: int = 80, named: str = "") -> dict[str, str]:
    """Return what Kubernetes sets for a Service (kubelet's ``envvars.FromServices``)."""
    name = service.upper().replace("-", "_")
    address = f"{protocol}://10.3.104.46:{port}"
    link = f"{name}_PORT_{port}_{protocol.upper()}"
    links = {f"{name}_SERVICE_HOST": "10.3.104.46", f"{name}_SERVICE_PORT": str(port), f"{name}_PORT": address}
    if named:
        links[f"{name}_SERVICE_PORT_{named.upper().replace('-', '_')}"] = str(port)
    return links | {
        link: address,
        f"{link}_PROTO": protocol,
        f"{link}_PORT": str(port),
        f"{link}_ADDR": "10.3.104.46",
    }


@pytest.mark.parametrize("protocol", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize("named", ["", "http", "http-metrics", "p2"])
@pytest.mark.parametrize(
    "service",
    [
        "featurestore",
        "featurestore-server",
        "featurestore-redis",
        "featurestore-service",
        "featurestore-port",
        "featurestore-2",
        "featurestore-data",
        "featurestore-registry-port-80-tcp",
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_are_ignored(written, monkeypatch, service, named, protocol):
    """Kubernetes sets them in every pod of the namespace (kubernetes/kubernetes#35189, searxng/searxng#5934)."""
    for name, value in service_links(service, protocol=protocol, port=8443, named=named).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("FEATURESTORE_SERVER__PORT", "8001")
    assert Config.load(written("")).server.port == 8001


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FEATURESTORE_PORT", "8080"),
        ("FEATURESTORE_SERVER_PORT", "8080"),
        ("FEATURESTORE_SERVER_HOST", "0.0.0.0"),
        ("FEATURESTORE_SERVICE_PORT", "http"),
        ("FEATURESTORE_SERVICE_HOSTS", "10.3.104.46"),
        ("FEATURESTORE_PORT_TCP", "tcp://10.3.104.46:80"),
        ("FEATURESTORE_REGISTY", "tcp://10.3.104.46:80"),
    ],
)
def test_typing_errors_that_resemble_service_variables_are_errors(written, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"{name}: unknown configuration variable"):
        Config.load(written(""))


def test_a_wrong_value_in_a_variable_names_the_variable(written, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_SERVER__PORT", "-1")
    with pytest.raises(ConfigError, match="environment variable FEATURESTORE_SERVER__PORT"):
        Config.load(written(""))


@pytest.mark.parametrize(("text", "amount"), [("1GB", 10**9), ("512 MiB", 2**29), ("1.5kb", 1500), ("70", 70), (7, 7)])
def test_amounts_of_memory(text, amount):
    assert read_bytes(text) == amount


def test_the_configuration_of_the_page_on_operating_is_read(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    (written,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "featurestore.toml").write_text(written)
    config = Config.load(tmp_path)
    assert [audit.cron or audit.every for audit in config.audits] == ["1h", "0 6 * * *"]
    assert config.alerts.smtp is not None
    assert config.schedule.jitter == "20s"


SECRET = "S3cr3t-Hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"[alerts]\nwebhook = 'htp://hooks.example/{SECRET}'",
        f"[alerts]\nwebhook = 'https://[{SECRET}'",
        f"[alerts]\nwebhook = 'https://u:{SECRET}\u2100@h/x'",
        f"[alerts.smtp]\nhost='h'\nsender='s'\nto=['x']\ntls=true\nstarttls=true\nuser='{SECRET}'",
        f"online = ['redis://u:{SECRET}@h/0']",
        f"registry = {{ url = '{SECRET}' }}",
        f"alerts = '{SECRET}'",
        f"[server]\nport = '{SECRET}'",
        f"[server]\nauth = '{SECRET}'",
    ],
)
def test_no_value_is_shown_of_what_is_wrong(written, text):
    with pytest.raises(ConfigError) as raised:
        Config.load(written(text))
    assert SECRET not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_variable_that_is_no_json_is_an_error_without_its_text(written, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_ALERTS", f'{{"webhook": "{SECRET}')
    with pytest.raises(ConfigError, match="alerts") as raised:
        Config.load(written(""))
    assert SECRET not in str(raised.value)


def test_a_configuration_shows_no_secret(written):
    text = f"registry = 'postgresql://u:{SECRET}@h/db'\nonline = 'redis://:{SECRET}@h/0'\n"
    config = Config.load(written(f"{text}[alerts]\nwebhook = 'https://hooks.example/{SECRET}'"))
    assert SECRET not in repr(config) and SECRET not in str(config)
    assert "postgresql://u:***@h/db" in repr(config)
    assert SECRET in config.registry
