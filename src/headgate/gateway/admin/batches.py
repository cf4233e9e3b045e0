"""`/v1/batches`: create, list, read, cancel. A batch is its tenant's alone."""

import re
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from headgate.gateway.admin.answers import (
    asker_of,
    body_of,
    desk_of,
    none_such,
    page_of,
    said,
)
from headgate.gateway.admin.desk import Desk, in_thread
from headgate.gateway.admin.lines import ENDPOINTS
from headgate.gateway.bodies import BatchAsk
from headgate.gateway.errors import Problem
from headgate.store.batches import Batch

HOUR_S = 3_600
METADATA_MAX = 16
TIMES = (
    "in_progress_at",
    "finalizing_at",
    "completed_at",
    "failed_at",
    "expired_at",
    "cancelling_at",
    "cancelled_at",
)


def shown(batch: Batch) -> dict[str, Any]:
    errors = None
    if batch.errors:
        data = [msgspec.structs.asdict(error) for error in batch.errors]
        errors = {"object": "list", "data": data}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": errors,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{time: getattr(batch, time) for time in TIMES},
        "request_counts": msgspec.structs.asdict(batch.request_counts),
        "metadata": batch.metadata,
    }


async def create(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    wish = await body_of(request, BatchAsk)
    if wish.endpoint not in ENDPOINTS:
        raise Problem(
            400, "invalid_value", f"endpoint must be one of {', '.join(ENDPOINTS)}.", "endpoint"
        )
    window_s = _window_s(wish.completion_window, desk)
    _check_metadata(wish.metadata)
    file = await in_thread(lambda: desk.files.get(asker.tenant, wish.input_file_id))
    if file is None:
        none_such("File object", wish.input_file_id)
    if file.purpose != "batch":
        raise Problem(
            400,
            "invalid_value",
            f"The file's purpose is {file.purpose}; upload it with purpose batch.",
            "input_file_id",
        )
    batch = await in_thread(
        lambda: desk.batches.add(
            asker.tenant,
            asker.key,
            endpoint=wish.endpoint,
            input_file_id=file.id,
            completion_window=wish.completion_window,
            window_s=window_s,
            metadata=wish.metadata,
        )
    )
    desk.wake.set()
    return said(shown(batch))


def _window_s(window: str, desk: Desk) -> int:
    least, most = desk.terms.window_min_h, desk.terms.window_max_h
    match = re.fullmatch(r"(\d{1,4})h", window)
    if match is None or not least <= int(match[1]) <= most:
        raise Problem(
            400,
            "invalid_value",
            f"completion_window must be 24h, or any of {least}h to {most}h.",
            "completion_window",
        )
    return int(match[1]) * HOUR_S


def _check_metadata(metadata: dict[str, str] | None) -> None:
    given = metadata or {}
    if len(given) > METADATA_MAX or any(len(k) > 64 or len(v) > 512 for k, v in given.items()):
        raise Problem(
            400,
            "invalid_value",
            f"metadata may have {METADATA_MAX} entries, names of 64 and values of 512 characters.",
            "metadata",
        )


async def listed(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    batches = await in_thread(lambda: desk.batches.all(asker.tenant))
    return page_of([shown(batch) for batch in batches], request, limit=20, most=100)


async def one(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    batch_id = request.path_params["batch_id"]
    batch = await in_thread(lambda: desk.batches.get(batch_id, asker.tenant))
    if batch is None:
        none_such("Batch object", batch_id)
    return said(shown(batch))


async def cancel(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    batch_id = request.path_params["batch_id"]
    batch = await in_thread(lambda: desk.batches.cancel(batch_id, asker.tenant))
    if batch is None:
        none_such("Batch object", batch_id)
    if batch.status not in ("cancelling", "cancelled"):
        raise Problem(
            409, "invalid_state", f"A batch that is {batch.status} cannot be cancelled.", None
        )
    desk.wake.set()
    return said(shown(batch))


ROUTES = [
    Route("/v1/batches", create, methods=["POST"]),
    Route("/v1/batches", listed, methods=["GET"]),
    Route("/v1/batches/{batch_id}", one, methods=["GET"]),
    Route("/v1/batches/{batch_id}/cancel", cancel, methods=["POST"]),
]
