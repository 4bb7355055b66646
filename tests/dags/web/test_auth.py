"""Who may see and change what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated
from unittest import mock

import pytest
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI, Form
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from laion_people.storage.store import LocalStore
from laion_people.web import auth
from tests.dags.web.conftest import USERS, SignedIn

PAGE = "/laion-people/"
ORIGIN = {"Origin": "http://testserver"}


@pytest.fixture(scope="module")
def form(airflow: FastAPI) -> TestClient:
    """An app with a single form that changes something."""
    app = FastAPI()

    @app.post("/change")
    def change(user: auth.Editor, text: Annotated[str, Form()]) -> str:
        return f"{user.get_id()}: {text}"

    return TestClient(app)


def token_of(name: str, role: str | None) -> str:
    """The cookie of a signed-in user."""
    return str(get_auth_manager().generate_jwt(SimpleAuthManagerUser(username=name, role=role, teams=[])))


def send(form: TestClient, name: str, csrf: str, headers: dict[str, str] = ORIGIN) -> int:
    form.cookies.set("_token", token_of(name, USERS[name]))
    return form.post("/change", data={"csrf": csrf, "text": "hello"}, headers=headers).status_code


def csrf_of(name: str) -> str:
    return auth.csrf_token(SimpleAuthManagerUser(username=name, role=USERS[name], teams=[]))


def paths() -> Iterator[tuple[str, str]]:
    """Method and an address of every route."""
    from laion_people.web.app import app

    for route in app.routes:
        if isinstance(route, APIRoute):
            for method in route.methods:
                yield method, "/laion-people" + re.sub(r"{[^}]*}", "0", route.path)


def test_every_page_asks_those_who_are_not_signed_in_to_do_so(anonymous: TestClient, store: LocalStore) -> None:
    asked = list(paths())
    assert len(asked) > 3
    for method, path in asked:
        answer = anonymous.request(method, path)
        assert (answer.status_code, "Sign in" in answer.text) == (401, True), (method, path)
        assert store.uri not in answer.text


def test_the_way_to_sign_in_leads_back_to_the_page(anonymous: TestClient) -> None:
    answer = anonymous.get("/laion-people/partitions/laion2B-en/00001")
    assert "/api/v2/auth/login?next=/plugin/laion-people/laion-people/partitions/laion2B-en/00001" in answer.text, (
        answer.text
    )


@pytest.mark.parametrize("name", USERS)
def test_every_role_of_airflow_may_look(signed_in: SignedIn, store: LocalStore, name: str) -> None:
    assert signed_in(name).get(PAGE).status_code == 200


def test_a_user_without_a_role_sees_nothing(anonymous: TestClient, store: LocalStore) -> None:
    anonymous.cookies.set("_token", token_of("nora", None))
    for method, path in paths():
        answer = anonymous.request(method, path)
        assert answer.status_code == 403, (method, path)
        assert store.uri not in answer.text


@pytest.mark.parametrize("right", ["is_authorized_view", "is_authorized_dag"])
def test_both_rights_are_needed_to_look(client: TestClient, monkeypatch: pytest.MonkeyPatch, right: str) -> None:
    monkeypatch.setattr(SimpleAuthManager, right, lambda *_, **__: False)
    assert client.get(PAGE).status_code == 403


def test_each_dag_counts(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = set(auth.DAGS)
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", lambda *_, details, **__: details.id in allowed)
    assert client.get(PAGE).status_code == 200
    allowed.remove("laion_people_caption")
    assert client.get(PAGE).status_code == 403


def test_a_forged_token_is_no_user(anonymous: TestClient) -> None:
    head, body, signature = token_of("ada", "admin").split(".")
    anonymous.cookies.set("_token", f"{head}.{body}.{signature[::-1]}")
    assert anonymous.get(PAGE).status_code in (401, 403)


def test_nothing_describes_the_api(client: TestClient) -> None:
    for path in ("docs", "redoc", "openapi.json"):
        assert client.get(f"/laion-people/{path}").status_code == 404


@pytest.mark.parametrize("path", ["", "partitions/a/b", "nowhere"])
def test_pages_are_kept_by_nobody_and_run_nothing_of_others(client: TestClient, path: str) -> None:
    headers = client.get(PAGE + path).headers
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["frame-ancestors"] == policy["form-action"] == "'self'"
    assert headers["Cache-Control"] == "private, no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_style_and_script_may_be_kept(client: TestClient, anonymous: TestClient) -> None:
    page = client.get(PAGE).text
    for address in re.findall(r'(?:href|src)="(/laion-people/static/[^"]+)"', page):
        answer = anonymous.get(address)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (200, "public, max-age=604800"), address


@pytest.mark.parametrize("name", [name for name, role in USERS.items() if role != "viewer"])
def test_who_may_start_runs_may_send_forms(form: TestClient, name: str) -> None:
    assert send(form, name, csrf_of(name)) == 200


def test_a_viewer_may_not(form: TestClient) -> None:
    assert send(form, "vera", csrf_of("vera")) == 403


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "null"}, {"Origin": "https://elsewhere.example"}, {"Origin": "http://[::1"}]
)
def test_forms_of_other_sites_are_refused(form: TestClient, headers: dict[str, str]) -> None:
    assert send(form, "ada", csrf_of("ada"), headers) == 403


def test_behind_a_proxy_the_public_address_counts(form: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/team")
    assert send(form, "ada", csrf_of("ada"), {"Origin": "https://airflow.example"}) == 200
    assert send(form, "ada", csrf_of("ada"), {"Origin": "https://airflow.example.evil"}) == 403


@pytest.mark.parametrize("change", [lambda token: "", lambda token: token[:-2] + "xx", lambda _: csrf_of("otto")])
def test_a_form_needs_the_token_of_its_user(form: TestClient, change: object) -> None:
    assert callable(change)
    assert send(form, "ada", change(csrf_of("ada"))) == 403


def test_tokens_grow_old_and_die_with_the_secret(form: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    csrf = csrf_of("ada")
    monkeypatch.setattr(auth, "FORM_SECONDS", -1)
    assert send(form, "ada", csrf) == 403
    monkeypatch.undo()
    assert send(form, "ada", csrf) == 200
    monkeypatch.setenv("AIRFLOW__API__SECRET_KEY", "z" * 64)
    assert send(form, "ada", csrf) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "1000001"},
        {"Content-Length": "-5"},
        {"Content-Length": b"\xb2"},  # a digit, to Python, and no number
        {"Content-Length": "9" * 5000},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_forms_of_any_size_are_refused_before_they_are_read(
    anonymous: TestClient, headers: dict[str, str | bytes]
) -> None:
    """FastAPI reads a form, and spools its files, before it looks at anybody's rights."""

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with mock.patch("starlette.requests.Request.form", side_effect=AssertionError("the form was read")):
        answer = anonymous.post("/laion-people/clusters/check", content=iter([b"--x--"]), headers=kind | headers)
    assert answer.status_code == 413
    assert "should be at most 1,000,000 bytes" in answer.text
    assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize("path", ["/static/gone.js", "/static/" + "a" * 5000, "/static/../app.py", "/static/"])
def test_no_error_is_kept_in_a_cache(client: TestClient, path: str) -> None:
    answer = client.get(PAGE + path)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (404, "private, no-store")
