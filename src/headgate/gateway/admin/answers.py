"""How the pages answer, and who may ask them."""

import hmac
import logging
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from headgate.core.errors import InputError
from headgate.gateway.admin.desk import Desk
from headgate.gateway.errors import Problem
from headgate.store.database import StoreAway

LOG = logging.getLogger(__name__)
BODY_MAX = 1 << 20
T = TypeVar("T")


class Asker(msgspec.Struct, frozen=True):
    """Whom a request that came through the door is from; the door has checked the key."""

    tenant: str
    key: str


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def asker_of(request: Request) -> Asker:
    """Who asks, as the door says; a Problem when it was not the door that asked."""
    said = request.headers.get("x-headgate-internal", "")
    secret = desk_of(request).secret
    tenant = request.headers.get("x-headgate-tenant", "")
    if not secret or not hmac.compare_digest(said.encode(), secret.encode()) or not tenant:
        raise Problem(401, "invalid_api_key", "Ask at the gateway's own address, with an API key.")
    return Asker(tenant, request.headers.get("x-headgate-key", ""))


async def admit_admin(request: Request) -> None:
    """Pass for a valid admin key; a Problem for anything else."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    accounts = desk_of(request).accounts
    if scheme.lower() == "bearer" and key:
        account = accounts.lookup(key) or await accounts.find(key)
        if account is not None and account.admin:
            return
        if account is not None:
            raise Problem(403, "not_an_admin", "This key is not an admin key.")
    raise Problem(401, "invalid_api_key", "Send an admin key as `Authorization: Bearer KEY`.")


async def body_of(request: Request, form: type[T]) -> T:
    """A JSON body of a stated form."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > BODY_MAX:
            raise Problem(413, None, f"The request's body is over {BODY_MAX} bytes.")
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.ValidationError as error:
        param = str(error).partition("`$.")[2].rstrip("`") or None
        raise Problem(400, "invalid_value", f"The body is wrong: {error}.", param) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Problem(400, None, "The body is not valid JSON.") from None


def said(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def page_of(entries: list[dict[str, Any]], request: Request, *, limit: int, most: int) -> Response:
    """One page of a list, as OpenAI's clients turn them: after this id, so many."""
    query = request.query_params
    try:
        limit = int(query.get("limit", limit))
    except ValueError:
        limit = 0
    if not 1 <= limit <= most:
        raise Problem(400, "invalid_value", f"limit must be 1 to {most}.", "limit")
    if query.get("order", "desc") == "asc":
        entries = entries[::-1]
    if after := query.get("after"):
        ids = [entry["id"] for entry in entries]
        if after not in ids:
            raise Problem(400, "invalid_value", f"after names no entry: {after!r}.", "after")
        entries = entries[ids.index(after) + 1 :]
    page = entries[:limit]
    return said(
        {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
            "has_more": len(entries) > limit,
        }
    )


def none_such(what: str, which: str) -> NoReturn:
    raise Problem(404, None, f"No such {what}: {which}", "id")


async def refused(request: Request, error: Exception) -> Response:
    """Whatever went wrong, in the form clients expect."""
    if isinstance(error, Problem):
        problem = error
    elif isinstance(error, InputError):
        problem = Problem(400, "invalid_value", str(error))
    elif isinstance(error, StoreAway):
        problem = Problem(503, "store_away", "The store cannot be asked now.", retry_after_s=2.0)
    elif isinstance(error, HTTPException):
        path = f"{request.method} {request.url.path}"
        problem = Problem(error.status_code, "unknown_url", f"Unknown request URL: {path}.")
    else:
        LOG.exception("%s %s", request.method, request.url.path, exc_info=error)
        problem = Problem(500, None, "The gateway made a mistake; it has been logged.")
    headers = {}
    if problem.retry_after_s is not None:
        headers["retry-after"] = f"{problem.retry_after_s:g}"
    return Response(problem.body(), problem.status, headers, "application/json")


Page = Callable[[Request], Awaitable[Response]]
