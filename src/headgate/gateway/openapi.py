"""The OpenAPI description of what the door answers, written from the types that read requests."""

from typing import Any

import msgspec

from headgate import __version__
from headgate.gateway.bodies import Ask, BatchAsk
from headgate.gateway.errors import REASONS

PROMPT_FIELD = {
    "/v1/chat/completions": "messages",
    "/v1/completions": "prompt",
    "/v1/embeddings": "input",
    "/v1/responses": "input",
}
REFUSALS = (400, 401, 403, 404, 408, 413, 414, 429, 431, 502, 503, 504)
TEMPLATE = "#/components/schemas/{name}"


class ErrorFields(msgspec.Struct):
    """Why there is no result: a sentence for people, a code for programs."""

    message: str
    type: str
    param: str | None
    code: str | int | None


class Error(msgspec.Struct):
    """Every answer that says no."""

    error: ErrorFields


class ModelEntry(msgspec.Struct):
    """A model the key may use."""

    id: str
    object: str
    created: int
    owned_by: str


class ModelList(msgspec.Struct):
    object: str
    data: list[ModelEntry]


def document() -> dict[str, Any]:
    """The whole description, ready to be written as JSON."""
    forms = (_described(Ask), BatchAsk, Error, ModelEntry, ModelList)
    _, schemas = msgspec.json.schema_components(forms, ref_template=TEMPLATE)
    paths: dict[str, Any] = {path: {"post": _inference(path)} for path in PROMPT_FIELD}
    paths["/v1/models"] = {"get": _operation("The models this key may use", "ModelList")}
    paths["/v1/models/{model}"] = {
        "parameters": [_in_path("model")],
        "get": _operation("One model", "ModelEntry"),
    }
    paths |= _file_paths() | _batch_paths()
    paths["/health"] = {"get": {**_operation("Whether any engine is up"), "security": []}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Headgate",
            "version": __version__,
            "description": "OpenAI's API. Fields that are not named here pass to the engine.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}],
    }


def _described(form: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """The form with fields that are passed on unread shown as anything at all."""
    fields: list[Any] = []
    for field in msgspec.structs.fields(form):
        if field.type is msgspec.Raw:
            fields.append((field.name, Any, None))
        elif field.required:
            fields.append((field.name, field.type))
        else:
            fields.append((field.name, field.type, field.default))
    return msgspec.defstruct(form.__name__, fields, namespace={"__doc__": form.__doc__})


def _inference(path: str) -> dict[str, Any]:
    field = PROMPT_FIELD[path]
    form: dict[str, Any] = {"$ref": TEMPLATE.format(name="Ask")}
    kind: dict[str, Any] = {"type": "array", "items": {"type": "object"}, "minItems": 1}
    if field != "messages":
        kind = {"type": ["string", "array"]}
    own = {"type": "object", "required": [field], "properties": {field: kind}}
    operation = _operation("An answer, or a stream of events where `stream` is true")
    operation["requestBody"] = _json_body({"allOf": [form, own]})
    content = operation["responses"]["200"]["content"]
    if path != "/v1/embeddings":
        content["text/event-stream"] = {}
    return operation


def _file_paths() -> dict[str, Any]:
    upload = _operation("Upload a file")
    form = {
        "type": "object",
        "required": ["file", "purpose"],
        "properties": {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "purpose": {"type": "string"},
        },
    }
    upload["requestBody"] = {"required": True, "content": {"multipart/form-data": {"schema": form}}}
    content = _operation("What is in a file")
    content["responses"]["200"]["content"] = {"*/*": {}}
    one = {"parameters": [_in_path("file")]}
    return {
        "/v1/files": {"get": _operation("Your files"), "post": upload},
        "/v1/files/{file}": {
            **one,
            "get": _operation("One file"),
            "delete": _operation("Delete a file"),
        },
        "/v1/files/{file}/content": {**one, "get": content},
    }


def _batch_paths() -> dict[str, Any]:
    create = _operation("Begin a batch")
    create["requestBody"] = _json_body({"$ref": TEMPLATE.format(name="BatchAsk")})
    one = {"parameters": [_in_path("batch")]}
    return {
        "/v1/batches": {"get": _operation("Your batches"), "post": create},
        "/v1/batches/{batch}": {**one, "get": _operation("One batch")},
        "/v1/batches/{batch}/cancel": {**one, "post": _operation("Cancel a batch")},
    }


def _operation(summary: str, answer: str | None = None) -> dict[str, Any]:
    schema = {"type": "object"} if answer is None else {"$ref": TEMPLATE.format(name=answer)}
    error = {"application/json": {"schema": {"$ref": TEMPLATE.format(name="Error")}}}
    responses: dict[str, Any] = {
        "200": {"description": "Done", "content": {"application/json": {"schema": schema}}}
    }
    for status in REFUSALS:
        responses[str(status)] = {"description": REASONS[status], "content": error}
    return {"summary": summary, "responses": responses}


def _json_body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
