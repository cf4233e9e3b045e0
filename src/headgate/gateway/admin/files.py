"""`/v1/files`: upload, list, read, delete. A file is its tenant's alone."""

import os
import shutil
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from headgate.gateway.admin.answers import asker_of, desk_of, none_such, page_of, said
from headgate.gateway.admin.desk import Desk, in_thread
from headgate.gateway.errors import Problem
from headgate.store.files import File, new_file_id

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
FORM_BYTES = 65_536  # of an upload beside the file
MB = 1 << 20
LIVES_MIN_S = 3_600
LIVES_MAX_S = 2_592_000


def shown(file: File) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
    if file.expires_s is not None:
        entry["expires_at"] = int(file.expires_s)
    return entry


async def upload(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    form = await _form(request, desk)
    try:
        given, purpose = form.get("file"), form.get("purpose")
        if not isinstance(given, UploadFile):
            raise Problem(400, "missing_required_parameter", "Send a part named file.", "file")
        if purpose not in PURPOSES:
            raise Problem(
                400, "invalid_value", f"purpose must be one of {', '.join(PURPOSES)}.", "purpose"
            )
        lives_s = _lives_s(form)
        size = given.size or 0
        room = desk.terms.tenant_files_max_gb * 1000 * MB
        if size + await in_thread(lambda: desk.files.bytes_of(asker.tenant)) > room:
            raise Problem(
                413, "storage_full", f"Your files would take over {room:.0f} bytes; delete some."
            )
        file_id = new_file_id()
        await in_thread(lambda: _keep(given, desk, file_id))
        name = os.path.basename(given.filename or "") or "upload"
        file = await in_thread(
            lambda: desk.files.add(
                file_id, asker.tenant, size, name[:255], str(purpose), lives_s=lives_s
            )
        )
    finally:
        await form.close()
    return said(shown(file))


async def _form(request: Request, desk: Desk) -> FormData:
    """The parts of an upload; a large file is spooled to disk, in the folder it will stay in."""
    most = int(desk.terms.file_max_mb * MB)
    too_large = Problem(413, "file_too_large", f"A file may have at most {most} bytes.", "file")
    if int(request.headers.get("content-length", 0)) > most + FORM_BYTES:
        raise too_large
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Problem(400, None, "Send the file as multipart/form-data.")

    async def bounded() -> Any:
        received = 0
        async for part in request.stream():
            received += len(part)
            if received > most + FORM_BYTES:
                raise too_large
            yield part

    try:
        parser = MultiPartParser(request.headers, bounded(), max_files=1, max_fields=8)
        form = await parser.parse()
    except (MultiPartException, KeyError) as error:
        raise Problem(400, None, f"The upload cannot be read: {error}.") from None
    given = form.get("file")
    if isinstance(given, UploadFile) and (given.size or 0) > most:
        await form.close()
        raise too_large
    return form


def _lives_s(form: FormData) -> float | None:
    given = form.get("expires_after[seconds]")
    if given is None:
        return None
    if isinstance(given, str) and given.isdecimal() and LIVES_MIN_S <= int(given) <= LIVES_MAX_S:
        return float(given)
    raise Problem(
        400,
        "invalid_value",
        f"expires_after[seconds] must be {LIVES_MIN_S} to {LIVES_MAX_S}.",
        "expires_after",
    )


def _keep(given: UploadFile, desk: Desk, file_id: str) -> None:
    """Put the content in its place, whole or not at all."""
    incoming = desk.folder / "incoming" / file_id
    given.file.seek(0)
    with open(os.open(incoming, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        shutil.copyfileobj(given.file, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    incoming.rename(desk.folder / file_id)


async def listed(request: Request) -> Response:
    asker, desk = asker_of(request), desk_of(request)
    purpose = request.query_params.get("purpose", "")
    files = await in_thread(lambda: desk.files.all(asker.tenant, purpose))
    return page_of([shown(file) for file in files], request, limit=10_000, most=10_000)


async def _file(request: Request) -> tuple[File, Desk]:
    asker, desk = asker_of(request), desk_of(request)
    file_id = request.path_params["file_id"]
    file = await in_thread(lambda: desk.files.get(asker.tenant, file_id))
    if file is None:
        none_such("File object", file_id)
    return file, desk


async def one(request: Request) -> Response:
    file, _ = await _file(request)
    return said(shown(file))


async def content(request: Request) -> Response:
    file, desk = await _file(request)
    path = desk.path(file)
    if not path.exists():
        none_such("File object", file.id)
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


async def delete(request: Request) -> Response:
    file, desk = await _file(request)
    await in_thread(lambda: drop(desk, file))
    return said({"id": file.id, "object": "file", "deleted": True})


def drop(desk: Desk, file: File) -> None:
    """Unlist a file, then remove what was in it."""
    desk.files.drop(file.tenant, file.id)
    desk.path(file).unlink(missing_ok=True)


ROUTES = [
    Route("/v1/files", upload, methods=["POST"]),
    Route("/v1/files", listed, methods=["GET"]),
    Route("/v1/files/{file_id}", one, methods=["GET"]),
    Route("/v1/files/{file_id}", delete, methods=["DELETE"]),
    Route("/v1/files/{file_id}/content", content, methods=["GET"]),
]
