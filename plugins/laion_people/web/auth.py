"""Who may see and change what, by Airflow's own sign-in and permissions, and the protection of forms.

``Reader``, ``Editor`` and ``Remover`` are FastAPI dependencies that give the signed-in user. They answer 401 when
nobody is signed in, 403 when somebody is who may not, or when a form was not made by one of our pages for this user.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.auth.tokens import get_signing_key
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_access_view
from airflow.configuration import conf
from fastapi import Depends, Form, HTTPException, Request
from itsdangerous import BadSignature, URLSafeTimedSerializer

from laion_people.errors import coded

EXTRACT, CLUSTER, CAPTION = DAGS = "laion_people_extract", "laion_people_cluster", "laion_people_caption"
TO_SEE = (
    requires_access_view(AccessView.PLUGINS),
    *(requires_access_dag("GET", DagAccessEntity.RUN, dag) for dag in DAGS),
)
REMOVE = "laion_people_remove"
TO_CHANGE = requires_access_dag("POST", DagAccessEntity.RUN, CLUSTER)  # the right to trigger a run: its label step
TO_REMOVE = requires_access_dag("POST", DagAccessEntity.RUN, REMOVE)
FORM_SECONDS = 12 * 3600  # a working day with a form open
STALE_FORM = "This form is stale or was not made for you: reload the page and send it again."


def reader(request: Request, user: GetUserDep) -> BaseUser:
    """A user who may see plugins and the runs of all DAGs whose results the pages show."""
    for check in TO_SEE:
        check(request, user)
    return user


Reader = Annotated[BaseUser, Depends(reader)]


def editor(request: Request, user: Reader, csrf: Annotated[str, Form()] = "") -> BaseUser:
    """A reader who may also start runs of the clustering DAG, and who sent one of our forms from one of our pages."""
    TO_CHANGE(request, user)
    if not _same_origin(request) or not _made_for(user, csrf):
        raise HTTPException(403, coded("stale-form", STALE_FORM))
    return user


Editor = Annotated[BaseUser, Depends(editor)]


def remover(request: Request, user: Reader) -> BaseUser:
    """A reader who may also start removals, and so may see who asked for which, and why."""
    TO_REMOVE(request, user)
    return user


Remover = Annotated[BaseUser, Depends(remover)]


def may_change(request: Request, user: BaseUser) -> bool:
    """Whether forms are shown to the user."""
    return _passes(TO_CHANGE, request, user)


def may_remove(request: Request, user: BaseUser) -> bool:
    """Whether the way to the removals is shown to the user."""
    return _passes(TO_REMOVE, request, user)


def _passes(check: Callable[[Request, BaseUser], None], request: Request, user: BaseUser) -> bool:
    try:
        check(request, user)
    except HTTPException:
        return False
    return True


def csrf_token(user: BaseUser) -> str:
    """The value of a form's hidden field ``csrf``: good for this user and deployment, for FORM_SECONDS."""
    return str(_signer().dumps(user.get_id()))


def _made_for(user: BaseUser, token: str) -> bool:
    try:
        return bool(_signer().loads(token, max_age=FORM_SECONDS) == user.get_id())  # compared in constant time
    except BadSignature:
        return False


def _signer() -> URLSafeTimedSerializer:
    return URLSafeTimedSerializer(get_signing_key("api", "secret_key"), salt="laion-people-form")


def _same_origin(request: Request) -> bool:
    """Whether the form was sent by a page of this Airflow, which a proxy may know under its public address only."""
    try:
        origin = urlsplit(request.headers.get("origin", ""))
    except ValueError:  # brackets that enclose no IPv6 address
        return False
    ours = {request.headers.get("host", ""), urlsplit(conf.get("api", "base_url", fallback="")).netloc} - {""}
    return origin.scheme in ("http", "https") and origin.netloc in ours
