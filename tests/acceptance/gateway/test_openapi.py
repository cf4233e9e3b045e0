"""What the door says of itself, held against what it does: by hand, and by schemathesis."""

import json
import shutil
import subprocess
import urllib.request

import pytest
from tests.acceptance.gateway.running import Door, Emulated, eventually, running

from headgate.gateway import openapi
from headgate.gateway.admin import batches, files
from headgate.gateway.admission import INFERENCE

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "ignored_auth",
)


def test_every_address_is_described():
    described = openapi.document()["paths"]
    assert {path.encode() for path in openapi.PROMPT_FIELD} == INFERENCE
    shapes = {path.replace("{file}", "{file_id}") for path in described}
    shapes |= {path.replace("{batch}", "{batch_id}") for path in described}
    for route in (*files.ROUTES, *batches.ROUTES):
        assert route.path in shapes
    for path in openapi.PROMPT_FIELD:
        assert "post" in described[path]


def test_the_fields_that_are_read_are_described():
    schemas = openapi.document()["components"]["schemas"]
    assert set(schemas["Ask"]["properties"]) >= {"model", "stream", "max_tokens", "service_tier"}
    assert schemas["Ask"]["required"] == ["model"]
    assert schemas["BatchAsk"]["required"] == ["input_file_id", "endpoint", "completion_window"]
    assert schemas["Error"]["required"] == ["error"]


@pytest.mark.engine
def test_schemathesis_finds_nothing(tmp_path):
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("uv, which fetches schemathesis, is not installed")
    engine = Emulated(tmp_path, ("--base-ms", "0.1")).start()
    try:
        with running(Door(tmp_path / "door", {"emulated": engine.url})) as door:
            _throw(uv, door, tmp_path)
            eventually(door.at_rest, 10)  # nothing that was thrown may keep a slot
    finally:
        engine.stop()


def _throw(uv, door, folder):
    with urllib.request.urlopen(f"{door.url}/openapi.json") as answer:
        described = json.load(answer)
    # Only with models that are there does a request come further than the model's name.
    described["components"]["schemas"]["Ask"]["properties"]["model"]["enum"] = ["tiny", "none"]
    schema = folder / "openapi.json"
    schema.write_text(json.dumps(described))
    command = [uv, "tool", "run", "--from", "schemathesis>=4.32,<5", "st", "run", str(schema)]
    command += ["--url", door.url, "-H", f"Authorization: Bearer {door.key}", "--seed", "1"]
    command += ["--checks", ",".join(CHECKS), "--phases", "fuzzing", "-n", "25"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=280, check=False
    )
    if "Operations:" not in done.stdout:
        pytest.skip(f"schemathesis cannot be fetched: {done.stderr[-200:]}")
    assert done.returncode == 0, done.stdout[-4000:]
