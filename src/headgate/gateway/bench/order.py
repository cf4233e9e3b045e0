"""Who is served first under overload, what each tenant gets, and whether a limit holds."""

import asyncio
import random
import time

from headgate.gateway.bench.asking import Askers, Told, message
from headgate.gateway.bench.site import TTFT_S, Site, run, site
from headgate.gateway.bench.speed import Plan

TENANTS = 50
BOSS_TOKENS = 64 + 60  # a request's mean output and its prompt


def overload(plan: Plan) -> dict[str, float]:
    """The higher class alone, then with as much again and more of the lower class behind it."""
    seconds = max(10.0, plan.seconds * 30)
    tenants = {"boss": 'class = "high"'}
    tenants |= {f"t{n}": 'class = "low"' for n in range(TENANTS)}
    with site(plan.folder / "overload", tenants) as place:
        _, shares = run(lambda: _overload(place, 5.0, 0.0, low=True))
        capacity = sum(shares.values()) / 5.0
        rate = 0.4 * capacity / BOSS_TOKENS
        alone, _ = run(lambda: _overload(place, seconds, rate, low=False))
        crowded, shares = run(lambda: _overload(place, seconds, rate, low=True))
    mean = sum(shares.values()) / len(shares)
    return {
        "goodput_kept": crowded / alone,
        "fair_share_max_error": max(abs(s / mean - 1.0) for s in shares.values()),
        "goodput_alone_tokens": alone,
        "low_tokens_per_tenant": mean,
        "capacity_tokens_per_s": capacity,
    }


async def _overload(
    place: Site, seconds: float, rate_per_s: float, low: bool
) -> tuple[float, dict[str, float]]:
    """Tokens of the higher class delivered within its objective; the tenants' tokens below it."""
    askers = Askers(place.door.port)
    dice = random.Random(7)
    told: list[Told] = []
    shares = dict.fromkeys((name for name in place.keys if name != "boss"), 0.0)
    counting = False
    tasks: set[asyncio.Task[None]] = set()

    async def boss(output: int) -> None:
        prompt = "who goes first " * 16
        asked = message(place.door.port, place.keys["boss"], prompt, output, stream=True)
        told.append(await askers.ask(asked))

    async def tenant(name: str, number: int) -> None:
        # Unlike one another: some ask for much at once, some for little and often.
        own = random.Random(number)
        while True:
            output = own.choice((32, 48, 64)) + 16 * (number % 3)
            prompt = "and who goes next " * (4 + number % 5)
            asked = message(place.door.port, place.keys[name], prompt, output, stream=False)
            answer = await askers.ask(asked)
            if counting and answer.complete:
                shares[name] += answer.output_tokens + len(prompt) // 4

    if low:
        for number, name in enumerate(shares):
            for _ in range(8 + number % 4):
                tasks.add(asyncio.create_task(tenant(name, number)))
        await asyncio.sleep(3.0)
    counting = True
    began_s = time.perf_counter()
    bosses = []
    due_s = began_s
    while due_s < began_s + seconds:
        due_s += dice.expovariate(rate_per_s) if rate_per_s else seconds
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        if rate_per_s:
            bosses.append(asyncio.create_task(boss(dice.choice((32, 64, 96)))))
    counting = False
    await asyncio.gather(*bosses)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    askers.close()
    good = sum(t.output_tokens for t in told if t.complete and t.first_s <= TTFT_S)
    return float(good), shares


def limits(plan: Plan) -> float:
    """A thousand calls at once against a limit of tokens: by how many requests it is passed."""
    output, prompt = 20, "how much may pass " * 10
    limit = 6000
    tenants = {
        "t": f'class = "low"\nlimits = {{ "*" = {{ tokens_per_min = {limit}, burst_s = 60.0 }} }}'
    }
    with site(plan.folder / "limits", tenants, workers=2) as place:

        async def trial() -> list[Told]:
            askers = Askers(place.door.port)
            asked = message(place.door.port, place.keys["t"], prompt, output, stream=False)
            answers = await asyncio.gather(*(askers.ask(asked) for _ in range(1000)))
            askers.close()
            return answers

        answers = run(trial)
        asked = message(place.door.port, place.keys["t"], prompt, output, stream=False)
        estimate = (len(asked) - asked.index(b"\r\n\r\n") - 4) // 4 + output
    through = sum(1 for answer in answers if answer.status == 200)
    used = through * (len(prompt) // 4 + output)
    return max(0.0, (used - limit) / estimate)
