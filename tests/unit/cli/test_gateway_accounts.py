"""`headgate tenants|keys|usage|batches`, as an operator types them."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headgate.cli.main import headgate
from headgate.core.errors import InputError
from headgate.ledger.accounts import Tenant
from headgate.ledger.usage import UsageRecord
from headgate.store.batches import Batches
from headgate.store.open import open_database
from headgate.store.tenants import Tenants
from headgate.store.usage import Usage


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/headgate.db"
    open_database(url).close()
    return url


def run(url: str, *words: str) -> Result:
    return CliRunner().invoke(headgate, [*words, "--store", url], catch_exceptions=False)


def said(url: str, *words: str) -> str:
    result = run(url, *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_tenant_is_added_changed_shown_and_removed(url: str) -> None:
    said(url, "tenants", "add", "acme", "--class", "maas", "--requests-per-min", "60")
    said(url, "tenants", "change", "acme", "--budget", "5.5", "--tokens-per-min", "9000")
    shown = json.loads(said(url, "tenants", "show", "acme"))
    assert shown["class"] == "maas"
    assert shown["limits"]["*"]["requests_per_min"] == 60
    assert shown["limits"]["*"]["tokens_per_min"] == 9_000
    assert shown["budgets"][0]["money"] == 5.5
    assert "60 requests/min" in said(url, "tenants", "list")
    assert json.loads(said(url, "tenants", "list", "--json")) == [shown]
    said(url, "tenants", "remove", "acme")
    with pytest.raises(InputError, match="No tenant is called 'acme'"):
        run(url, "tenants", "show", "acme")


def test_a_document_gives_all_of_a_tenant(url: str, tmp_path: Path) -> None:
    document = tmp_path / "acme.json"
    document.write_text('{"name": "acme", "limits": {"large": {"reserved_input_per_min": 5}}}')
    said(url, "tenants", "add", "acme", "--document", str(document))
    shown = json.loads(said(url, "tenants", "show", "acme"))
    assert shown["limits"]["large"]["reserved_input_per_min"] == 5
    document.write_text('{"name": "acme", "limit": {}}')
    with pytest.raises(InputError, match="unknown field `limit`"):
        run(url, "tenants", "change", "acme", "--document", str(document))


def test_a_key_is_printed_alone_so_that_a_script_can_keep_it(url: str) -> None:
    said(url, "tenants", "add", "acme")
    result = run(url, "keys", "create", "acme", "--label", "laptop", "--days", "2", "--admin")
    key = result.stdout.strip()
    assert key.startswith("hg-")
    assert "\n" not in key
    [listed] = json.loads(said(url, "keys", "list", "acme", "--json"))
    assert (listed["label"], listed["admin"], listed["revoked"]) == ("laptop", True, None)
    assert key not in said(url, "keys", "list")
    said(url, "keys", "revoke", listed["id"])
    assert json.loads(said(url, "keys", "list", "--json"))[0]["revoked"] is not None
    with pytest.raises(InputError, match="No valid key"):
        run(url, "keys", "revoke", listed["id"])


def test_usage_closes_and_says_where_it_does_not(url: str) -> None:
    database = open_database(url)
    Tenants(database).put(Tenant("acme"))
    records = [
        UsageRecord(
            f"r{i}",
            "acme",
            "k",
            "small",
            "default",
            "maas",
            started_s=86_400.0 * 20_000,
            input_tokens=10,
            output_tokens=i,
            price_nano=1_500_000_000 + i,
        )
        for i in range(3)
    ]
    Usage(database).add(records)
    result = run(url, "usage", "--by", "tenant,day")
    assert "2024-10-04" in result.stdout
    assert "4.500000003" in result.stdout
    assert "Closes: 3 records" in result.stdout
    [row] = json.loads(said(url, "usage", "--by", "model", "--json"))
    assert row == {
        "model": "small",
        "requests": 3,
        "input": 30,
        "cached": 0,
        "output": 3,
        "price": "4.500000003",
    }
    assert json.loads(said(url, "usage", "--from", "2024-10-05", "--json")) == []
    with database.transaction() as transaction:
        transaction.script("UPDATE usage_blocks SET records = replace(records, '1500000001', '1')")
    result = run(url, "usage")
    assert result.exit_code == 1
    assert "DOES NOT CLOSE" in result.stderr
    assert "2024-10-04" in result.stderr
    assert "4.500000003" in run(url, "usage", "--no-proof").stdout
    database.close()


def test_batches_are_listed_shown_and_cancelled(url: str) -> None:
    database = open_database(url)
    batch = Batches(database).add(
        "acme",
        "k",
        endpoint="/v1/embeddings",
        input_file_id="file-1",
        completion_window="24h",
        window_s=86_400,
        metadata=None,
    )
    database.close()
    assert batch.id in said(url, "batches", "list")
    assert json.loads(said(url, "batches", "show", batch.id))["status"] == "validating"
    assert "cancelling" in said(url, "batches", "cancel", batch.id)
    with pytest.raises(InputError, match="No batch has the id 'none'"):
        run(url, "batches", "show", "none")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["usage", "--by", "colour"], "by names 'colour'"),
        (["usage", "--from", "yesterday"], "'yesterday' is not a date"),
        (["keys", "create", "nobody"], "No tenant is called 'nobody'"),
    ],
)
def test_bad_input_is_one_sentence(url: str, words: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        run(url, *words)


def test_a_store_that_is_not_there_is_not_made_by_asking_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no store"):
        run(f"sqlite:///{tmp_path}/none.db", "usage")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="give sqlite:///"):
        run("mysql://x", "usage")
    with pytest.raises(InputError, match="The store cannot be asked"):
        run("postgresql://nobody@127.0.0.1:1/none", "usage")
