"""A real vLLM behind the door, offered more than it can do."""

import asyncio
import statistics

import pytest
from tests.acceptance.gateway.clients import ask, ask_all
from tests.acceptance.gateway.running import Door, chat, eventually, running, samples
from tools.vllm_cpu.server import fetch

pytestmark = pytest.mark.engine

PEOPLE = """
[[classes]]
name = "interactive"
[[classes]]
name = "background"
patience_s = 120.0
[[tenants]]
name = "people"
class = "interactive"
[[tenants]]
name = "reports"
class = "background"
"""


def counts(vllm):
    return samples(fetch(f"{vllm.url}/metrics"))


def door_of(vllm, folder, in_flight_max):
    return Door(
        folder,
        {"vllm": vllm.url},
        kind="vllm",
        engine=f"priorities = true\nin_flight_max = {in_flight_max}\n",
        tenants=PEOPLE,
    )


def long_chat(tokens, **more):
    """vLLM would end its noise where it pleases."""
    return chat(tokens, ignore_eos=True, min_tokens=tokens, **more)


@pytest.mark.parametrize(
    ("in_flight_max", "queue"), [(8, "the door's"), (48, "the engine's")], ids=["door", "engine"]
)
def test_people_pass_reports_whichever_queue_they_meet(vllm, tmp_path, in_flight_max, queue):
    """Six times as many reports as vLLM takes at once; people come one after the other."""
    door = door_of(vllm, tmp_path, in_flight_max)
    before = counts(vllm)

    async def overload(people, reports):
        jobs = asyncio.create_task(
            ask_all(door, [long_chat(40, stream=True)] * 120, at_once=48, key=reports)
        )
        while counts(vllm)["vllm:num_requests_running"] < 8:
            await asyncio.sleep(0.05)
        seen = [await ask(door, long_chat(4, stream=True), key=people) for _ in range(5)]
        overloaded = not jobs.done()
        return seen, await jobs, overloaded

    with running(door):
        seen, jobs, overloaded = asyncio.run(overload(door.key, door.key_for("reports")))
        records = door.settled(125, within_s=60)
    after = counts(vllm)
    assert overloaded, "the reports were done before the people: no overload"
    assert all(one.finished for one in [*seen, *jobs])
    waits = {
        name: [record.first_byte_s for record in records if record.class_ == name]
        for name in ("interactive", "background")
    }
    assert max(waits["interactive"]) < statistics.median(waits["background"]), queue
    assert 3 * statistics.median(waits["interactive"]) < statistics.median(waits["background"])
    # The bill is what the engine counted, to the token.
    made = after["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
    fed = after["vllm:prompt_tokens_total"] - before["vllm:prompt_tokens_total"]
    assert sum(record.output_tokens for record in records) == made == 120 * 40 + 5 * 4
    assert sum(record.input_tokens for record in records) == fed
    assert {record.counted for record in records} == {"engine"}


def test_who_leaves_frees_vllm_at_once_and_is_billed_to_the_token_it_read(vllm, tmp_path):
    door = door_of(vllm, tmp_path, 48)
    before = counts(vllm)
    with running(door):
        seen = asyncio.run(
            ask_all(door, [long_chat(1500, stream=True, leave_after=5)] * 8, at_once=8)
        )
        eventually(lambda: counts(vllm)["vllm:num_requests_running"] == 0, 20)
        records = door.settled(8)
    made = counts(vllm)["vllm:generation_tokens_total"] - before["vllm:generation_tokens_total"]
    assert {record.outcome for record in records} == {"left"}
    assert {record.counted for record in records} == {"engine"}
    assert all(one.left for one in seen)
    billed = sum(record.output_tokens for record in records)
    assert 8 * 5 <= billed <= made < 8 * 500
