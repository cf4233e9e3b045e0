"""The pages for files, batches and administration, as the door and admins see them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.gateway.admin.scripted import office, put_batch

from headgate.gateway.admin.desk import Desk
from headgate.gateway.admin.process import application
from headgate.ledger.usage import UsageRecord

Client = httpx.AsyncClient
Story = Callable[[Desk, Client, Client], Awaitable[None]]


def through_the_door(tenant: str, secret: str = "secret") -> dict[str, str]:
    return {
        "x-headgate-internal": secret,
        "x-headgate-tenant": tenant,
        "x-headgate-key": "key_1",
    }


@asynccontextmanager
async def client_of(desk: Desk, headers: dict[str, str]) -> AsyncIterator[Client]:
    transport = httpx.ASGITransport(application(desk), raise_app_exceptions=False)
    async with Client(transport=transport, base_url="http://desk", headers=headers) as client:
        yield client


def tell(folder: Path, story: Story, **terms: object) -> None:
    """Run a story with clients of the tenants acme and bolt."""

    async def run() -> None:
        async with (
            office(folder, **terms) as (desk, _, _),
            client_of(desk, through_the_door("acme")) as acme,
            client_of(desk, through_the_door("bolt")) as bolt,
        ):
            await story(desk, acme, bolt)

    asyncio.run(run())


async def upload(client: Client, content: bytes = b"{}\n", **form: str) -> httpx.Response:
    return await client.post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": "batch"} | form
    )


def code(answer: httpx.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()["error"]["code"]


def test_a_file_comes_back_as_it_was_sent_until_it_is_deleted(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000

    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        file = (await upload(acme, content)).json()
        assert (file["object"], file["bytes"], file["filename"]) == (
            "file",
            len(content),
            "in.jsonl",
        )
        assert (await acme.get(f"/v1/files/{file['id']}")).json() == file
        assert (await acme.get(f"/v1/files/{file['id']}/content")).content == content
        assert (await acme.get("/v1/files")).json()["data"] == [file]
        assert (await acme.delete(f"/v1/files/{file['id']}")).json()["deleted"] is True
        assert (await acme.get(f"/v1/files/{file['id']}")).status_code == 404
        left = [path for path in desk.folder.rglob("*") if path.is_file()]
        assert left == []

    tell(tmp_path, story)


def test_one_tenant_neither_sees_nor_touches_anothers(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        file = (await upload(acme)).json()["id"]
        batch = put_batch(desk, 1).id
        wish = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        answers = [
            await bolt.get(f"/v1/files/{file}"),
            await bolt.get(f"/v1/files/{file}/content"),
            await bolt.delete(f"/v1/files/{file}"),
            await bolt.post("/v1/batches", json=wish),
            await bolt.get(f"/v1/batches/{batch}"),
            await bolt.post(f"/v1/batches/{batch}/cancel"),
        ]
        assert [answer.status_code for answer in answers] == [404] * 6
        for page in ("/v1/files", "/v1/batches"):
            assert (await bolt.get(page)).json()["data"] == []
            assert (await acme.get(page)).json()["data"] != []

    tell(tmp_path, story)


def test_nobody_gets_in_beside_the_door(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        for headers in ({}, through_the_door("acme", "wrong"), through_the_door("", "secret")):
            async with client_of(desk, headers) as stranger:
                for page in ("/v1/files", "/v1/batches", "/v1/files/file-1/content"):
                    assert code(await stranger.get(page)) == (401, "invalid_api_key")

    tell(tmp_path, story)


def test_what_is_wrong_with_an_upload_is_said(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        assert code(await upload(acme, purpose="mischief")) == (400, "invalid_value")
        assert code(await upload(acme, b"x" * 1_200_000)) == (413, "file_too_large")
        assert (await acme.post("/v1/files", json={})).status_code == 400
        bare = await acme.post(
            "/v1/files", content=b"--x", headers={"content-type": "multipart/form-data"}
        )
        assert bare.status_code == 400
        missing = await acme.post("/v1/files", files={"other": b"x"}, data={"purpose": "batch"})
        assert code(missing) == (400, "missing_required_parameter")
        for _ in range(2):
            assert (await upload(acme, b"x" * 900_000)).status_code == 200
        assert code(await upload(acme, b"x" * 900_000)) == (413, "storage_full")
        assert len([path for path in desk.folder.rglob("*") if path.is_file()]) == 2

    tell(tmp_path, story, file_max_mb=1.0, tenant_files_max_gb=0.002)


def test_a_file_name_is_a_name_and_never_a_path(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        answer = await acme.post(
            "/v1/files",
            files={"file": ("../../etc/passwd", b"x")},
            data={"purpose": "batch"},
        )
        assert answer.json()["filename"] == "passwd"
        assert (desk.folder / answer.json()["id"]).exists()
        for name in ("../headgate.db", "..%2fheadgate.db", "%2e%2e/headgate.db"):
            assert (await acme.get(f"/v1/files/{name}/content")).status_code == 404

    tell(tmp_path, story)


def test_a_batch_is_as_openai_makes_it(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        file = (await upload(acme)).json()["id"]
        wish = {
            "input_file_id": file,
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
            "metadata": {"team": "search"},
            "output_expires_after": {"anchor": "created_at", "seconds": 3600},
        }
        batch = (await acme.post("/v1/batches", json=wish)).json()
        assert desk.wake.is_set()
        assert batch["status"] == "validating"
        assert batch["expires_at"] - batch["created_at"] == 86_400
        assert batch["metadata"] == {"team": "search"}
        assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert (await acme.get(f"/v1/batches/{batch['id']}")).json() == batch
        cancelled = (await acme.post(f"/v1/batches/{batch['id']}/cancel")).json()
        assert cancelled["status"] == "cancelling"

    tell(tmp_path, story)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"endpoint": "/v1/files"}, (400, "invalid_value")),
        ({"endpoint": "http://example.com/v1/chat/completions"}, (400, "invalid_value")),
        ({"endpoint": "/v1/chat/completions/../../internal/room"}, (400, "invalid_value")),
        ({"completion_window": "24d"}, (400, "invalid_value")),
        ({"completion_window": "0h"}, (400, "invalid_value")),
        ({"completion_window": "9999h"}, (400, "invalid_value")),
        ({"input_file_id": "file-none"}, (404, None)),
        ({"input_file_id": 5}, (400, "invalid_value")),
        ({"metadata": {str(i): "" for i in range(17)}}, (400, "invalid_value")),
        ({"metadata": {"a": {"b": 1}}}, (400, "invalid_value")),
    ],
)
def test_what_is_wrong_with_a_batch_is_said(
    tmp_path: Path, changes: dict[str, Any], answer: tuple[int, Any]
) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        wish = {
            "input_file_id": (await upload(acme)).json()["id"],
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        assert code(await acme.post("/v1/batches", json=wish | changes)) == answer

    tell(tmp_path, story)


def test_a_file_that_is_not_for_batches_makes_none(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        file = (await upload(acme, purpose="user_data")).json()["id"]
        wish = {
            "input_file_id": file,
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
        }
        assert code(await acme.post("/v1/batches", json=wish)) == (400, "invalid_value")

    tell(tmp_path, story)


def test_lists_are_turned_page_by_page(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        made = [put_batch(desk, 1).id for _ in range(5)]
        seen: list[str] = []
        after = ""
        while True:
            query = {"limit": "2"} | ({"after": after} if after else {})
            page = (await acme.get("/v1/batches", params=query)).json()
            seen += [entry["id"] for entry in page["data"]]
            after = page["last_id"]
            if not page["has_more"]:
                break
        assert sorted(seen) == sorted(made)
        assert len(seen) == 5
        for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "101"}, {"after": "none"}):
            assert code(await acme.get("/v1/batches", params=query)) == (400, "invalid_value")

    tell(tmp_path, story)


def test_an_unknown_address_is_told_as_openai_does(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        assert code(await acme.get("/v1/nothing")) == (404, "unknown_url")
        assert code(await acme.put("/v1/files")) == (405, "unknown_url")

    tell(tmp_path, story)


def test_admin_pages_open_for_an_admin_key_alone(tmp_path: Path) -> None:
    pages = ["/admin/tenants", "/admin/tenants/acme/keys", "/admin/usage", "/admin/batches"]

    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        plain, _ = desk.tenants.add_key("acme")
        admin, key = desk.tenants.add_key("acme", admin=True)
        for page in pages:
            assert code(await acme.get(page)) == (401, "invalid_api_key")
            for secret, status in ((plain, 403), (admin, 200), (admin + "x", 401)):
                headers = {"authorization": f"Bearer {secret}"}
                assert (await acme.get(page, headers=headers)).status_code == status
        desk.tenants.revoke_key(key.id)
        await desk.accounts.refresh()
        headers = {"authorization": f"Bearer {admin}"}
        assert (await acme.get(pages[0], headers=headers)).status_code == 401

    tell(tmp_path, story)


def test_an_admin_manages_tenants_keys_and_sees_usage(tmp_path: Path) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        secret, _ = desk.tenants.add_key("acme", admin=True)
        headers = {"authorization": f"Bearer {secret}"}
        async with client_of(desk, headers) as admin:
            document = {"name": "new", "budgets": [{"money": 5.0}]}
            made = await admin.put("/admin/tenants/new", json=document)
            assert made.json()["budgets"][0]["money"] == 5.0
            assert (await admin.put("/admin/tenants/old", json=document)).status_code == 400
            made = await admin.post("/admin/tenants/new/keys", json={"label": "laptop"})
            assert made.status_code == 201
            assert made.json()["key"].startswith("hg-")
            assert await desk.accounts.find(made.json()["key"]) is not None
            listed = (await admin.get("/admin/tenants/new/keys")).json()
            assert [entry["id"] for entry in listed] == [made.json()["id"]]
            assert "key" not in listed[0]
            revoked = await admin.delete(f"/admin/keys/{made.json()['id']}")
            assert revoked.json()["revoked"] is True
            assert (await admin.delete("/admin/keys/none")).status_code == 404
            desk.usage.add([UsageRecord("r", "new", "k", "small", "default", "maas", price_nano=7)])
            usage = (await admin.get("/admin/usage", params={"by": "tenant,model"})).json()
            assert [(u["tenant"], u["model"], u["price_nano"]) for u in usage] == [
                ("new", "small", 7)
            ]
            assert (await admin.get("/admin/usage", params={"by": "colour"})).status_code == 400
            assert (await admin.delete("/admin/tenants/new")).json()["deleted"] is True
            assert (await admin.get("/admin/tenants/new")).status_code == 404

    tell(tmp_path, story)


wild = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["input_file_id", "endpoint", "completion_window", "metadata", "x"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=8,
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies=st.lists(wild | st.binary(max_size=40), min_size=1, max_size=20))
def test_no_body_makes_the_desk_fail(tmp_path: Path, bodies: list[Any]) -> None:
    async def story(desk: Desk, acme: Client, bolt: Client) -> None:
        for body in bodies:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            for page in ("/v1/batches", "/v1/files"):
                answer = await acme.post(page, content=content)
                assert 400 <= answer.status_code < 500
                assert "error" in answer.json()

    tell(tmp_path, story)
