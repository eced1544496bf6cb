"""Redis by TLS: who is trusted, who is not, and what is told then."""

from contextlib import ExitStack, contextmanager

import pytest

from featurestore.core.errors import StorageError
from featurestore.online.stores.opening import open_online_store
from tests.servers import redis_programs, running_redis
from tests.tls import TlsSide, make_certificates, tls_before

_BUILT_WITHOUT = ("Failed finding TLS support", "Bad directive")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


@contextmanager
def speaking_tls(kind, side):
    """Run a server that speaks TLS itself, or one behind something that does; give its URL without options."""
    program = next(iter(redis_programs().values()))
    with ExitStack() as stack:
        if kind == "before it":
            yield stack.enter_context(tls_before(stack.enter_context(running_redis(program)).url, side))
            return
        try:
            server = stack.enter_context(running_redis(program, tls=side))
        except AssertionError as error:
            if any(text in str(error) for text in _BUILT_WITHOUT):
                pytest.skip(f"{program.name} was built without TLS; put a redis-server that has it on PATH")
            raise
        yield server.url


@pytest.fixture(scope="module", params=["its own", "before it"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def trusted(kind, certificates):
    """A server that lets everybody in who trusts it: its URL, and what its clients need."""
    side = TlsSide(certificates, asks_clients=False)
    with speaking_tls(kind, side) as url:
        yield url, side


@pytest.fixture(scope="module")
def asking(kind, certificates):
    """A server that lets in who has a certificate."""
    side = TlsSide(certificates, asks_clients=True)
    with speaking_tls(kind, side) as url:
        yield url, side


def use(url):
    """Do with a store what a store does."""
    store = open_online_store(url)
    try:
        with store.exclusive("view"):
            store.write([(b"a", b"1"), (b"large", bytes(1_000_000))])
            assert store.read([b"a", b"b", b"large"]) == {b"a": b"1", b"large": bytes(1_000_000)}
        assert store.delete(b"") == 2
    finally:
        store.close()


def refused(url):
    """Return what is told when a store cannot be read."""
    store = open_online_store(url)
    try:
        with pytest.raises(StorageError) as caught:
            store.read([b"a"])
    finally:
        store.close()
    return caught.value


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_a_store_is_used_by_tls(trusted, scheme):
    url, side = trusted
    use(f"{url.replace('rediss', scheme)}?prefix=a&{side.client_query()}")


def test_a_server_that_nobody_vouches_for_is_refused(trusted):
    """And that does not pass by itself."""
    error = refused(trusted[0])
    assert "CERTIFICATE_VERIFY_FAILED" in error.problem
    assert error.code == "storage"
    assert "ssl_ca_certs" in error.hint
    use(f"{trusted[0]}?ssl_cert_reqs=none")


def test_a_certificate_for_another_name_is_refused(trusted):
    url, side = trusted
    elsewhere = f"{url.replace('127.0.0.1', 'localhost')}?{side.client_query()}"
    assert "localhost" in refused(elsewhere).problem
    use(f"{elsewhere}&ssl_check_hostname=false")


def test_a_server_that_asks_for_certificates_lets_in_who_has_one(asking):
    url, side = asking
    use(f"{url}?{side.client_query()}")
    assert refused(f"{url}?ssl_ca_certs={side.file('ca.pem')}").code == "store-unavailable", "it just hangs up"


def test_one_side_alone_speaks_tls(trusted, redis_url):
    """A server without TLS waits for the end of a command that it takes the greeting for."""
    assert refused(trusted[0].replace("rediss", "redis")).code == "store-unavailable"
    if redis_url.startswith("redis://"):
        assert refused(f"{redis_url.replace('redis', 'rediss', 1)}?timeout=200ms").code == "store-unavailable"
