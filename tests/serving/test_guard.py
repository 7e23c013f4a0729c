"""Who may ask: names of the server, pages of other sites, the token."""

import pytest

from tests.serving.running import number_picture, running

RED = {"Content-Type": "image/png"}


@pytest.fixture(scope="module")
def server():
    with running(token="s3cret") as server:
        yield server


def status(server, path="/classes", **headers):
    given = {"Authorization": "Bearer s3cret"} | {name.replace("_", "-"): value for name, value in headers.items()}
    return server.ask("GET", path, headers={name: value for name, value in given.items() if value})[0]


@pytest.mark.parametrize("host", ["localhost", "localhost:80", "127.0.0.1:9", "[::1]:80", "192.168.0.7", "dogs.org"])
def test_its_own_names_are_known(server, host):
    assert status(server, Host=host) == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "dogs.org.evil.com", "[::1", "a b"]
)
def test_a_foreign_name_is_refused(server, host):
    for path in ("/", "/classes", "/health", "/predict"):
        assert status(server, path, Host=host) == 400


@pytest.mark.parametrize("origin", ["http://localhost:7", "https://dogs.org"])
def test_its_own_pages_may_ask(server, origin):
    assert status(server, Host="localhost:7", Origin=origin) == 200


@pytest.mark.parametrize("origin", ["http://evil.com", "null", "http://localhost:8", "http://[", "file://"])
def test_other_pages_may_not(server, origin):
    assert status(server, Host="localhost:7", Origin=origin) == 403


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer x", "Basic s3cret", "s3cret", "Bearer s3cre", "Bearer \xe9"])
def test_a_wrong_token_is_refused(server, given):
    assert status(server, Authorization=given) == 401
    assert (
        server.ask("POST", "/predict", number_picture(1), RED | ({"Authorization": given} if given else {}))[0] == 401
    )


def test_the_right_token_is_taken(server):
    status, answer, _ = server.ask("POST", "/predict", number_picture(1), RED | {"Authorization": "bearer s3cret"})
    assert (status, answer[0]["label"]) == (200, "class 1")


@pytest.mark.parametrize("path", ["/", "/classify.js", "/backend.js", "/health"])
def test_the_page_needs_no_token(server, path):
    assert status(server, path, Authorization="") == 200


def test_the_challenge_names_the_scheme(server):
    code, answer, response = server.ask("GET", "/classes")
    assert (code, response.headers["www-authenticate"]) == (401, "Bearer")
    assert "Authorization: Bearer" in answer["error"]
