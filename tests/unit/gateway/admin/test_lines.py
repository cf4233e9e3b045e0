"""What may stand in a batch's input file, and what is said of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.gateway.admin.lines import ENDPOINTS, Input, look_through

CHAT = "/v1/chat/completions"


def line(custom_id: str = "a", **changes: Any) -> dict[str, Any]:
    body = {"model": "small", "messages": [{"role": "user", "content": "é\n"}]}
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body} | changes


def looked(path: Path, content: bytes, lines_max: int = 10) -> Input:
    path.write_bytes(content)
    return look_through(path, CHAT, {"small", "large"}, lines_max)


def codes(found: Input) -> list[str]:
    found.close()
    return [error.code for error in found.errors]


def text(*lines: Any) -> bytes:
    return "\n".join(json.dumps(one) for one in lines).encode()


def test_each_lines_body_comes_back_as_it_was_written(tmp_path: Path) -> None:
    lines = [line("a"), line("b", body={"model": "large", "x": [1.50, None]}), line("c")]
    content = b"\n\n" + text(lines[0]) + b"\r\n   \n" + text(*lines[1:])
    found = looked(tmp_path / "in", content)
    assert found.errors == []
    assert found.custom_ids == ["a", "b", "c"]
    assert found.models == {"small", "large"}
    bodies = [found.body(i) for i in (2, 0, 1)]
    assert [json.loads(body) for body in bodies] == [lines[i]["body"] for i in (2, 0, 1)]
    assert b"1.5" in bodies[2]
    found.close()


def test_the_input_outlives_its_deletion_while_it_is_used(tmp_path: Path) -> None:
    found = looked(tmp_path / "in", text(line()))
    (tmp_path / "in").unlink()
    assert json.loads(found.body(0))["model"] == "small"
    found.close()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ("{", "invalid_json_line"),
        ("[1]", "invalid_request"),
        (b"\xff\xfe", "invalid_json_line"),
        ("[" * 100_000, "invalid_request"),
        (line(""), "invalid_custom_id"),
        (line("x" * 513), "invalid_custom_id"),
        (line("first"), "duplicate_custom_id"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/embeddings"), "mismatched_url"),
        (line(url="http://169.254.169.254/latest/meta-data"), "mismatched_url"),
        (line(url=f"{CHAT}/../../internal/room"), "mismatched_url"),
        (line(url=f"//evil.example{CHAT}"), "mismatched_url"),
        (line(body={"messages": []}), "invalid_body"),
        (line(body="small"), "invalid_body"),
        (line(body={"model": "theirs"}), "model_not_found"),
        (line(body={"model": "small", "stream": True}), "invalid_body"),
        ({"custom_id": "a"}, "invalid_request"),
    ],
)
def test_what_is_wrong_with_a_line_has_a_code_and_its_number(
    tmp_path: Path, bad: Any, code: str
) -> None:
    content = bad if isinstance(bad, bytes) else bad.encode() if isinstance(bad, str) else text(bad)
    found = looked(tmp_path / "in", text(line("first")) + b"\n\n" + content + b"\n")
    assert codes(found) == [code]
    assert found.errors[0].line == 3


def test_too_many_lines_and_none_at_all_are_refused(tmp_path: Path) -> None:
    many = text(*(line(str(i)) for i in range(11)))
    assert codes(looked(tmp_path / "in", many)) == ["too_many_tasks"]
    assert codes(looked(tmp_path / "in", many, lines_max=11)) == []
    assert codes(looked(tmp_path / "in", b"\n \n")) == ["empty_file"]


def test_errors_are_listed_up_to_what_a_person_reads(tmp_path: Path) -> None:
    assert codes(looked(tmp_path / "in", b"{\n" * 5_000)) == ["invalid_json_line"] * 100


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_bytes_make_it_fail_or_name_an_address_that_is_not_ours(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    found = looked(tmp_path_factory.getbasetemp() / "fuzz", content)
    assert found.errors
    found.close()


def test_all_endpoints_are_our_own() -> None:
    assert all(endpoint.startswith("/v1/") for endpoint in ENDPOINTS)
