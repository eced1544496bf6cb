"""API keys: who gets in, who does not, and that a revoked key is noticed."""

import json
import os
import signal
import subprocess
import sys
from urllib.request import Request, urlopen

import pytest

from featurestore import FeatureStore
from featurestore.core.errors import RegistryError
from featurestore.registry.api_keys import Scope
from featurestore.server.app import create_app
from featurestore.server.auth import needed_scope
from tests.server.conftest import NOW, Caller
from tests.server.test_process import project  # noqa: F401  # a fixture

PATHS = {
    "/v1/features": Scope.READ,
    "/metrics": Scope.READ,
    "/v1/services": Scope.READ,
    "/get-online-features": Scope.READ,
    "/v1/sources/orders/events": Scope.WRITE,
    "/push": Scope.WRITE,
    "/materialize": Scope.ADMIN,
    "/materialize-incremental": Scope.ADMIN,
    "/healthz": None,
    "/readyz": None,
    "/health": None,
    "/openapi.json": None,
}


@pytest.fixture
def guarded(store, monkeypatch):
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", "keys")
    with FeatureStore.local(store.config.folder, clock=store.clock) as opened:
        yield opened


@pytest.fixture
def call(guarded):
    return Caller(create_app(guarded))


def key_of(store, *scopes, name="test"):
    made, text = store.api_keys.create(name, scopes, now_us=store.clock.now_us())
    return made, {"authorization": f"Bearer {text}"}


def ask(call, headers=None):
    question = {"service": "plain", "entities": [{"user": 1}]}
    return call("POST", "/v1/features", json=question, headers=headers or {})


def test_every_path_needs_the_scope_it_should(call):
    assert {path: needed_scope(path) for path in PATHS} == PATHS
    routes = call("GET", "/openapi.json").json()["paths"]
    assert set(routes) - {"/v1/sources/{source}/events"} <= set(PATHS)
    for path, operations in routes.items():
        for operation in operations.values():
            assert ("security" in operation) == (needed_scope(path) is not None)


def test_without_a_key_nothing_is_answered(call):
    for path, scope in {**PATHS, "/nowhere": Scope.ADMIN}.items():
        response = call("POST" if scope else "GET", path)
        assert (response.status_code == 401) == (scope is not None), path
    refused = ask(call)
    assert refused.json()["code"] == "no-key"
    assert refused.headers["www-authenticate"] == 'Bearer realm="featurestore"'


def test_a_key_lets_in_where_its_scope_allows(call, guarded):
    _, reader = key_of(guarded, Scope.READ)
    _, writer = key_of(guarded, Scope.WRITE)
    _, admin = key_of(guarded, Scope.ADMIN)
    assert [ask(call, headers).status_code for headers in (reader, writer, admin)] == [200, 403, 200]
    pushed = [call("POST", "/push", headers=headers, content=b"{}").status_code for headers in (reader, writer, admin)]
    assert pushed == [403, 422, 422]
    refused = ask(call, writer)
    assert refused.json()["code"] == "forbidden"
    assert "insufficient_scope" in refused.headers["www-authenticate"]


@pytest.mark.parametrize("root", ["", "/fs", "/v1/features", "/healthz"])
def test_a_scope_is_needed_wherever_the_server_is_mounted(guarded, root):
    """Found in a review: under a root path a key for reading could push and materialize."""

    async def mounted(scope, receive, send):
        await app({**scope, "root_path": root, "path": root + scope["path"]}, receive, send)

    app = create_app(guarded)
    call = Caller(mounted)
    keys = {scope: key_of(guarded, scope)[1] for scope in Scope}
    for path, needed in PATHS.items():
        method = "POST" if needed and path not in ("/metrics", "/v1/services") else "GET"
        for scope, headers in keys.items():
            response = call(method, path, headers=headers, content=b"{}" if method == "POST" else None)
            is_let_in = needed is None or scope in (needed, Scope.ADMIN)
            assert (response.status_code == 403) == (not is_let_in), (path, scope)
            assert response.status_code not in (401, 404, 405), (path, scope)
        assert (call(method, path).status_code == 401) == (needed is not None)


def test_a_path_that_nobody_opened_is_closed(call, guarded):
    _, reader = key_of(guarded, Scope.READ)
    _, admin = key_of(guarded, Scope.ADMIN)
    assert call("GET", "/v1/nowhere", headers=reader).status_code == 404
    call.app._fastapi.add_api_route("/v1/unopened", lambda: 1)
    assert [call("GET", "/v1/unopened", headers=key).status_code for key in (reader, admin)] == [403, 200]
    assert call("GET", "/v1/nowhere", headers=admin).status_code == 404


def test_a_wrong_secret_another_scheme_and_nonsense_are_refused(call, guarded):
    made, right = key_of(guarded, Scope.READ)
    assert ask(call, right).status_code == 200
    text = right["authorization"].removeprefix("Bearer ")
    for wrong in (
        f"Bearer fs_{made.id}_wrong",
        f"Basic {text}",
        f"Bearer {text}x",
        "Bearer",
        "",
        f"Bearer {text[:-1]}",
    ):
        assert ask(call, {"authorization": wrong}).status_code == 401, wrong


def test_the_spellings_of_a_key_are_one(call, guarded):
    """Found in a hunt: each spelling of a header was kept for ever."""
    _, headers = key_of(guarded, Scope.READ)
    text = headers["authorization"].partition(" ")[2]
    for blanks in range(1, 30):
        for kind in ("Bearer", "bearer", "BEARER"):
            spelled = f"{kind}{' ' * blanks}{text}{' ' * (blanks % 3)}"
            assert ask(call, {"authorization": spelled}).status_code == 200
            assert ask(call, {"authorization": f"{spelled}x"}).status_code == 401
    assert list(call.app.admission._keys._snapshot.verified) == [text.encode()]


def test_where_there_is_nothing_every_key_may_learn_that(call, guarded):
    """Found in a hunt: a slash too many was told to need the scope admin."""
    _, headers = key_of(guarded, Scope.READ)
    for path in ("/v1/features/", "/v1/feature", "/v1/sources/orders", "/materialize/now", "//v1/features"):
        assert call("POST", path, json={}, headers=headers).status_code == 404, path
        assert call("POST", path, json={}).status_code == 401, path
    for path in ("/materialize", "/push", "/v1/sources/orders/events"):
        assert call("POST", path, json={}, headers=headers).status_code == 403, path


def test_a_revoked_key_is_refused_within_a_second(call, guarded):
    made, headers = key_of(guarded, Scope.READ)
    assert ask(call, headers).status_code == 200
    guarded.api_keys.revoke(made.id, now_us=guarded.clock.now_us())
    guarded.clock.instant_us += 1_000_000
    assert ask(call, headers).json()["code"] == "unknown-key"
    with pytest.raises(RegistryError, match="no valid key"):
        guarded.api_keys.revoke(made.id, now_us=0)


def test_known_keys_hold_on_while_the_registry_cannot_be_read(call, guarded, monkeypatch):
    _, headers = key_of(guarded, Scope.READ)
    assert ask(call, headers).status_code == 200

    def fail():
        raise RegistryError("the database failed")

    monkeypatch.setattr(guarded.api_keys, "all", fail)
    guarded.clock.instant_us += 1_000_000
    assert ask(call, headers).status_code == 200


def test_no_secret_is_stored(guarded):
    _, headers = key_of(guarded, Scope.READ)
    secret = headers["authorization"].rpartition("_")[2]
    files = [path for path in guarded.config.folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if secret.encode() in path.read_bytes()]


def test_several_workers_serve_one_socket_and_end_together(project, monkeypatch):  # noqa: F811
    monkeypatch.setenv("FEATURESTORE_SERVER__AUTH", "keys")
    environment = os.environ | {"FEATURESTORE_CONFIG": str(project)}
    command = [sys.executable, "-m", "featurestore.cli"]
    made = [*command, "keys", "create", "--name", "test", "--scope", "read"]
    key = subprocess.run(made, env=environment, check=True, capture_output=True, text=True).stdout.strip()
    question = json.dumps({"service": "spending_model", "entities": [{"user": 1}], "as_of": NOW}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    server = [*command, "serve", "--port", "0", "--workers", "2"]
    with subprocess.Popen(
        server, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    ) as process:
        try:
            address = process.stdout.readline().split()[-1]
            for _ in range(20):
                with urlopen(Request(f"{address}/v1/features", question, headers), timeout=60) as response:
                    assert json.load(response)["rows"][0]["values"] == [2, 2.5]
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
    with FeatureStore.open(project) as store:
        report = store.audit("spending_model", since="2024-05-01T00:00:00Z", until="2024-05-03T00:00:00Z")
    assert (report.served, report.verdict) == (20, "pass")
