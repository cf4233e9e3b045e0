"""Who is served first, who waits, who is refused, who is put back."""

import asyncio
import time

import msgspec
from tests.house import chat, house, request_for, run

from headgate.gateway.config import parse_config
from headgate.gateway.emulate import Profile
from headgate.ledger.accounts import Tenant

ONE_AT_A_TIME = "in_flight_max=1"
TWO_CLASSES = """
[[classes]]
name="high"
engine_share=1.0
[[classes]]
name="low"
engine_share=1.0
"""
HIGH_AND_LOW = (Tenant("t1", class_="low"), Tenant("t2", class_="high"))
LOW, HIGH = "sk-test", "sk-test-2"


def prompt_of(tokens):
    return {"model": "m", "messages": [{"role": "user", "content": "four" * tokens}]}


def batch_line(number, **fields):
    """A request as our own batch process sends it."""
    return request_for(**fields).replace(
        b"content-type",
        b"x-headgate-internal: inside\r\nx-headgate-tenant: t1\r\n"
        b"x-headgate-key: key1\r\nx-headgate-order: batch_1/%d\r\ncontent-type" % number,
    )


async def finish_order(h, asks):
    """Send the asks one after the other; the names in the order in which they were answered."""
    order = []

    async def one(name, key, fields):
        answer = await h.ask(key=key, **fields)
        assert answer.status == 200, answer.body
        order.append(name)

    tasks = []
    for name, key, fields in asks:
        tasks.append(asyncio.create_task(one(name, key, fields)))
        await asyncio.sleep(0.02)
    await asyncio.gather(*tasks)
    return order


def test_the_higher_class_goes_first_and_inside_a_class_priority_before_default_before_flex():
    async def story():
        async with house(TWO_CLASSES, engine_terms=ONE_AT_A_TIME, tenants=HIGH_AND_LOW) as h:
            order = await finish_order(
                h,
                [
                    ("runs", LOW, chat(max_tokens=100)),
                    ("low flex", LOW, chat(max_tokens=2, service_tier="flex")),
                    ("low", LOW, chat(max_tokens=2)),
                    ("low priority", LOW, chat(max_tokens=2, service_tier="priority")),
                    ("high", HIGH, chat(max_tokens=2)),
                    ("high priority", HIGH, chat(max_tokens=2, service_tier="priority")),
                ],
            )
            assert order == ["runs", "high priority", "high", "low priority", "low", "low flex"]
            tiers = {r.tier: r.price_nano for r in h.meter.records if r.class_ == "low"}
            assert tiers["priority"] == 2 * tiers["flex"] * 2

    run(story)


def test_the_engine_is_told_the_priority():
    async def story():
        async with house(TWO_CLASSES, tenants=HIGH_AND_LOW) as h:
            seen = []
            submit = h.emulators[0].submit

            def look(reply, asked):
                seen.append(asked["priority"])
                return submit(reply, asked)

            h.emulators[0].submit = look
            await h.ask(key=LOW, **chat(max_tokens=1))
            await h.ask(key=HIGH, **chat(max_tokens=1))
            assert seen[1] < seen[0]

    run(story)


def test_never_more_is_in_flight_than_the_cap():
    async def story():
        async with house(engine_terms="in_flight_max=3") as h:
            most = 0

            async def watch():
                nonlocal most
                while True:
                    most = max(most, len(h.emulators[0].running) + len(h.emulators[0].waiting))
                    await asyncio.sleep(0.001)

            watching = asyncio.create_task(watch())
            answers = await asyncio.gather(*(h.ask(**chat(max_tokens=3)) for _ in range(30)))
            watching.cancel()
            assert {a.status for a in answers} == {200}
            assert most == 3

    run(story)


def test_patience_ends_in_429_with_a_time_to_come_back():
    async def story():
        config = '[[classes]]\nname="default"\npatience_s=0.2\n'
        async with house(config, engine_terms=ONE_AT_A_TIME) as h:
            _, writer = await h.send(request_for(**chat(max_tokens=5000, stream=True)))
            await asyncio.sleep(0.05)
            answer = await h.ask(**chat(max_tokens=1))
            assert answer.status == 429
            assert answer.json()["error"]["code"] == "engine_overloaded"
            assert int(answer.headers["retry-after"]) >= 1
            assert h.door.dispatcher.models["m"].queue.waiting == 0
            writer.close()
            records = await h.settled(2)
            assert sorted(r.outcome for r in records) == ["left", "refused"]

    run(story)


def test_a_refusal_says_when_its_own_level_will_have_room_not_when_the_house_is_empty():
    async def story():
        config = TWO_CLASSES.replace("engine_share", "patience_s=2.0\nengine_share")
        async with house(config, engine_terms=ONE_AT_A_TIME, tenants=HIGH_AND_LOW) as h:
            model = h.door.dispatcher.models["m"]
            model.terms = msgspec.structs.replace(model.terms, queue_max=3)
            _, writer = await h.send(request_for(**chat(max_tokens=5000, stream=True)))
            await asyncio.sleep(0.05)
            waiting = [await h.send(request_for(**chat(max_tokens=1))) for _ in range(3)]
            await asyncio.sleep(0.05)
            level = next(n for n, ring in enumerate(model.queue.rings) if len(ring))
            # Of late the low class was given one slot in four seconds, the high one two a second.
            model.drain_per_s = [2.0] * len(model.drain_per_s)
            model.drain_per_s[level] = 0.25
            low = await h.ask(key=LOW, **chat(max_tokens=1))
            high = await h.ask(key=HIGH, **chat(max_tokens=1))
            assert (low.status, high.status) == (429, 429)
            # Three in twelve seconds, less patience; a little more if the rate was looked at since.
            assert 10 <= int(low.headers["retry-after"]) <= 12
            assert int(high.headers["retry-after"]) == 1
            for _, one in (*waiting, (None, writer)):
                one.close()

    run(story)


def test_the_rate_of_a_queue_is_learnt_from_what_was_taken_from_it():
    async def story():
        async with house(engine_terms=ONE_AT_A_TIME) as h:
            model = h.door.dispatcher.models["m"]
            assert model.back_s(0, 10) == 0.0  # nothing is known
            await asyncio.gather(*(h.ask(**chat(max_tokens=1)) for _ in range(20)))
            assert sum(model.drained) + sum(model.drain_per_s) > 0
            for _ in range(100):
                model.drained[0] = 2
                model.look_at_drain(0.25)
            assert abs(model.back_s(0, 40) - 5.0) < 0.1

    run(story)


def test_what_cannot_be_served_in_time_is_refused_at_once_and_idleness_is_no_reason_to():
    async def story():
        config = '[[classes]]\nname="default"\npatience_s=1.0\n'
        async with house(config, engine_terms=ONE_AT_A_TIME) as h:
            model = h.door.dispatcher.models["m"]
            await h.ask(**chat(max_tokens=2))
            # A burst after a long silence: each is short, so all are taken.
            answers = await asyncio.gather(*(h.ask(**chat(max_tokens=2)) for _ in range(10)))
            assert {a.status for a in answers} == {200}
            # Twenty that take half a second each do not fit into a second's patience.
            model.service_s = 0.5
            burst = [asyncio.create_task(h.ask(**chat(max_tokens=50))) for _ in range(20)]
            statuses = [a.status for a in await asyncio.gather(*burst)]
            assert statuses.count(429) >= 10
            assert 200 in statuses

    run(story)


def test_a_client_that_leaves_the_queue_leaves_its_place_and_a_record():
    async def story():
        async with house(engine_terms=ONE_AT_A_TIME) as h:
            _, running = await h.send(request_for(**chat(max_tokens=5000, stream=True)))
            await asyncio.sleep(0.05)
            _, waiting = await h.send(request_for(**chat(max_tokens=5)))
            await asyncio.sleep(0.05)
            assert h.door.dispatcher.models["m"].queue.waiting == 1
            waiting.close()
            (record,) = await h.settled(1)
            assert (record.outcome, record.engine, record.price_nano) == ("left", "", 0)
            assert h.door.dispatcher.models["m"].queue.waiting == 0
            running.close()
            await h.settled(2)

    run(story)


def test_tenants_in_one_class_share_evenly_whoever_asks_more():
    async def story():
        tenants = (Tenant("many"), Tenant("few"))
        async with house(engine_terms=ONE_AT_A_TIME, tenants=tenants) as h:
            order = []

            async def one(name, key):
                await h.ask(key=key, **chat(max_tokens=4))
                order.append(name)

            tasks = [asyncio.create_task(one("many", "sk-test")) for _ in range(30)]
            await asyncio.sleep(0.02)
            tasks += [asyncio.create_task(one("few", "sk-test-2")) for _ in range(5)]
            await asyncio.gather(*tasks)
            # These requests turn out to cost about 7 tokens: a quantum of 64 is nine of them, and
            # some were done before the others came.
            assert order[:30].count("few") == 5

    run(story)


def test_batch_work_yields_to_interactive_and_is_done_again_without_being_billed_twice():
    async def story():
        profile = Profile(base_s=0.004, per_token_s=0.0, per_kv_token_s=0.0)
        async with house(engine_terms="in_flight_max=2", profile=profile) as h:
            h.door.secret = b"inside"
            batch = asyncio.create_task(h.raw(batch_line(7, **chat(max_tokens=50))))
            await asyncio.sleep(0.05)
            assert h.door.dispatcher.engines["e0"].in_flight == 1
            answers = await asyncio.gather(*(h.ask(**chat(max_tokens=20)) for _ in range(2)))
            assert {a.status for a in answers} == {200}
            assert not batch.done()
            assert (await batch).status == 200
            assert h.door.dispatcher.evicted == 1
            assert h.emulators[0].aborted == 1
            records = [r for r in h.meter.records if r.order]
            assert [(r.order, r.tier, r.output_tokens) for r in records] == [
                ("batch_1/7", "batch", 50)
            ]

    run(story)


def test_what_is_put_back_after_a_reload_waits_where_the_new_config_looks():
    async def story():
        profile = Profile(base_s=0.004, per_token_s=0.0, per_kv_token_s=0.0)
        async with house(engine_terms="in_flight_max=2", profile=profile) as h:
            h.door.secret = b"inside"
            batch = asyncio.create_task(h.raw(batch_line(7, **chat(max_tokens=50))))
            await asyncio.sleep(0.05)
            text = (
                f'[[engines]]\nname="e0"\nurl="http://127.0.0.1:{h.ports[0]}"\nin_flight_max=2\n'
                '[[models]]\nname="m"\nengines=["e0"]\n[[classes]]\nname="new"\n'
                '[[classes]]\nname="default"\n[admin]\nenabled=false\n'
            )
            h.door.adopt(parse_config(text, "new.toml"))
            answers = await asyncio.gather(*(h.ask(**chat(max_tokens=20)) for _ in range(2)))
            assert {a.status for a in answers} == {200}
            assert h.door.dispatcher.evicted == 1
            async with asyncio.timeout(5):
                assert (await batch).status == 200

    run(story)


def test_batch_prompts_go_in_one_after_another_once_it_is_known_how_long_one_is_read():
    async def story():
        # A prompt of 200 tokens is read in 100 ms, one of 100 in 50 ms.
        profile = Profile(base_s=0.001, per_token_s=0.0005, per_kv_token_s=0.0)
        async with house(profile=profile) as h:
            h.door.secret = b"inside"
            began_s = []
            submit = h.emulators[0].submit

            def look(reply, asked):
                began_s.append(time.monotonic())
                return submit(reply, asked)

            h.emulators[0].submit = look
            four = [batch_line(n, **prompt_of(100), max_tokens=2) for n in range(4)]
            await asyncio.gather(*(h.raw(line) for line in four))
            engine = h.door.dispatcher.engines["e0"]
            assert not engine.batch_waits  # nothing is known, nothing waits
            await h.ask(**prompt_of(200), max_tokens=2, stream=True)
            assert 0.0001 < engine.reading.token_s < 0.005
            began_s.clear()
            answers = await asyncio.gather(*(h.raw(line) for line in four))
            assert {answer.status for answer in answers} == {200}
            assert began_s[-1] - began_s[0] > 0.9 * 3 * 100 * engine.reading.token_s

    run(story)


def test_only_batch_work_waits_for_a_batch_prompt_to_be_read():
    async def story():
        async with house() as h:
            h.door.secret = b"inside"
            h.door.dispatcher.engines["e0"].batch_due_s = time.monotonic() + 0.5
            batch = asyncio.create_task(h.raw(batch_line(1, **chat(max_tokens=2))))
            answer = await h.ask(**chat(max_tokens=2, service_tier="flex"))
            assert answer.status == 200
            assert not batch.done()
            assert (await batch).status == 200

    run(story)


def test_an_engine_half_full_takes_no_batch_prompt_while_a_first_token_is_awaited():
    async def story():
        # A prompt of 200 tokens is read in 200 ms.
        slow = Profile(base_s=0.001, per_token_s=0.001, per_kv_token_s=0.0)
        async with house(engine_terms="in_flight_max=4", profile=slow) as h:
            h.door.secret = b"inside"
            engine = h.door.dispatcher.engines["e0"]
            first = asyncio.create_task(h.raw(batch_line(1, **chat(max_tokens=300))))
            await asyncio.sleep(0.05)
            asked = [h.ask(**prompt_of(200), max_tokens=50, stream=True) for _ in range(2)]
            looking_on = [asyncio.create_task(one) for one in asked]
            await asyncio.sleep(0.05)
            assert engine.unread == 2
            second = asyncio.create_task(h.raw(batch_line(2, **chat(max_tokens=2))))
            await asyncio.sleep(0.1)
            assert len(engine.batch) == 1  # though there is room for it
            while engine.unread:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.02)
            assert not any(one.done() for one in looking_on)
            assert (await second).status == 200
            assert {(await one).status for one in looking_on} == {200}
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)

    run(story)


def test_a_nearly_full_engine_takes_a_batch_prompt_only_while_another_is_free_to_read():
    async def story():
        async with house(engines=2, engine_terms="in_flight_max=4") as h:
            h.door.secret = b"inside"
            one, other = h.door.dispatcher.engines.values()
            lines = [
                asyncio.create_task(h.raw(batch_line(n, **chat(max_tokens=2000)))) for n in range(6)
            ]
            await asyncio.sleep(0.1)
            assert [len(e.batch) for e in (one, other)] == [3, 3]
            other.unread += 1  # somebody's prompt is read there
            late = asyncio.create_task(h.raw(batch_line(7, **chat(max_tokens=2))))
            await asyncio.sleep(0.1)
            assert not late.done()
            other.unread -= 1
            assert (await late).status == 200  # at the next look
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)

    run(story)


def test_no_first_token_is_awaited_from_who_has_left_or_was_answered_or_lost_its_engine():
    async def story():
        async with house() as h:
            engine = h.door.dispatcher.engines["e0"]
            assert (await h.ask(**chat(max_tokens=2, stream=True))).status == 200
            assert engine.unread == 0
            slow = Profile(base_s=0.3, per_token_s=0.0, per_kv_token_s=0.0)
            h.emulators[0].profile = slow
            _, writer = await h.send(request_for(**chat(max_tokens=5, stream=True)))
            await asyncio.sleep(0.05)
            assert engine.unread == 1
            writer.close()
            await h.settled(2)
            assert engine.unread == 0
            _, writer = await h.send(request_for(**chat(max_tokens=5, stream=True)))
            await asyncio.sleep(0.05)
            for link in list(engine.links):
                link.transport.abort()
            await asyncio.sleep(0.05)
            assert engine.unread == engine.in_flight == 1  # it was sent again
            writer.close()
            await h.settled(3)
            assert engine.unread == engine.in_flight == 0

    run(story)


def test_a_prompt_goes_where_no_other_is_being_read_once_reading_is_known():
    async def story():
        slow = Profile(base_s=0.001, per_token_s=0.0005, per_kv_token_s=0.0)
        async with house(engines=2, profile=slow) as h:
            engines = list(h.door.dispatcher.engines.values())
            for tokens in (100, 200, 300, 400):
                asked = [h.ask(**prompt_of(tokens), max_tokens=2, stream=True) for _ in range(2)]
                await asyncio.gather(*asked)
            assert all(e.reading.token_s for e in engines)
            # An answer of many tokens is under way at one of them, a prompt is read at the other.
            long = asyncio.create_task(h.ask(**chat(max_tokens=400, stream=True)))
            await asyncio.sleep(0.1)
            busy = next(e for e in engines if e.in_flight)
            (free,) = (e for e in engines if e is not busy)
            free.reading.until_s = time.monotonic() + 5.0
            assert (await h.ask(**prompt_of(10), max_tokens=2)).status == 200
            assert (await h.settled(9))[-1].engine == busy.name
            long.cancel()
            await asyncio.gather(long, return_exceptions=True)

    run(story)


def test_nobody_from_outside_passes_for_our_own_batch_process():
    async def story():
        async with house() as h:
            h.door.secret = b"inside"
            for secret in (b"guess", b""):
                line = request_for().replace(
                    b"content-type",
                    b"x-headgate-internal: %b\r\nx-headgate-tenant: t1\r\ncontent-type" % secret,
                )
                assert (await h.raw(line)).status == 401

    run(story)


def test_requests_with_one_beginning_go_to_the_engine_that_has_it():
    async def story():
        async with house(engines=3) as h:
            prompts = [f"topic {n} " * 400 for n in range(4)]
            for _ in range(3):
                for prompt in prompts:
                    await h.ask(
                        model="m",
                        max_tokens=1,
                        messages=[{"role": "user", "content": prompt}],
                    )
            engines = {}
            for number, record in enumerate(h.meter.records):
                engines.setdefault(number % 4, set()).add(record.engine)
            assert all(len(used) == 1 for used in engines.values())
            assert sum(r.cached_tokens for r in h.meter.records[4:]) > 0

    run(story)


def test_where_batch_work_lies_does_not_draw_or_drive_away_others():
    async def story():
        async with house(engines=2) as h:
            h.door.secret = b"inside"
            engines = list(h.door.dispatcher.engines.values())
            long = chat(max_tokens=3000)
            lines = [asyncio.create_task(h.raw(batch_line(n, **long))) for n in range(2)]
            await asyncio.sleep(0.1)
            assert [len(e.batch) for e in engines] == [1, 1]
            engines[0].outstanding_tokens += 500  # a little more batch work there
            engines[0].batch_tokens += 500
            engines[1].outstanding_tokens += 100  # and somebody's prompt here
            assert (await h.ask(**chat(max_tokens=1))).status == 200
            assert [r.engine for r in h.meter.records] == ["e0"]
            for line in lines:
                line.cancel()
            await asyncio.gather(*lines, return_exceptions=True)
            await h.settled(3)
            assert [e.batch_tokens for e in engines] == [500, 0]

    run(story)


def test_the_cap_follows_the_objective():
    async def story():
        # A step takes 2 ms and 1 ms a sequence: 10 ms between tokens allow 8 sequences.
        slow = Profile(base_s=0.002, per_token_s=0.001, per_kv_token_s=0.0)
        config = '[[classes]]\nname="default"\ntpot_ms=10.0\n'
        async with house(config, engine_terms="in_flight_max=64", profile=slow) as h:
            work = [
                asyncio.create_task(h.ask(**chat(max_tokens=100, stream=True))) for _ in range(60)
            ]
            await asyncio.sleep(3.0)
            engine = h.door.dispatcher.engines["e0"]
            assert 5 <= engine.cap <= 12
            assert engine.in_flight <= 14
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

    run(story)
