"""A batch beside interactive traffic: what of the idle engines it uses, what it costs others."""

import asyncio
import bisect
import json
import math
import random
import time
from dataclasses import dataclass
from functools import partial

from headgate.core.errors import InputError
from headgate.gateway.bench import load
from headgate.gateway.bench.asking import Askers, Told, message
from headgate.gateway.bench.doors import MODEL
from headgate.gateway.bench.site import Site, http_call, run, site
from headgate.gateway.bench.speed import Plan
from headgate.gateway.emulate import Profile

ENGINES = 4
# The default profile, a dense 8B model on one A100, with places for 64 sequences.
PLACES = 64
ENGINE = ("--sequences", str(PLACES))
FULL_SHARE = 0.85  # of the places; a batch may fill nine tenths
PROFILE = Profile(sequences_max=PLACES)
WARM_S = 15.0  # in which the door learns what it will know beside the batch too
SETTLE_S = 10.0  # a long answer's time
RATE_PER_S = 4.0  # interactive requests an engine
LINES = 15_000
FULL_WITHIN_S = 60.0
DRAWS = 400  # of the requests, for the interval
NEEDY = 200  # requests that come faster than the batch's own lines end
NEEDY_AT_ONCE = 40
NEEDY_TOKENS = 60
NEEDY_GAP_S = 0.02
NEEDY_PAUSE_S = 3.0


@dataclass(frozen=True)
class Lengths:
    """Log-normal numbers of tokens."""

    prompt: float  # median
    output: float
    prompt_spread: float
    output_spread: float
    most_prompt: int
    most_output: int

    def draw(self, dice: random.Random) -> tuple[int, int]:
        prompt = dice.lognormvariate(math.log(self.prompt), self.prompt_spread)
        output = dice.lognormvariate(math.log(self.output), self.output_spread)
        return min(self.most_prompt, int(prompt) + 1), min(self.most_output, int(output) + 1)


# Half, nine tenths and the longest of the conversations in the Azure LLM inference trace of 2023:
# prompts of 1,020, 2,735 and 4,142 (99 %) tokens, answers of 129 and 424.
CONVERSATION = Lengths(1020, 129, 0.77, 0.93, 4142, 1000)
# Lines of a batch: a page to be summarised or sorted.
LINE = Lengths(400, 160, 0.6, 0.6, 4142, 1000)


def batch(plan: Plan) -> dict[str, float]:
    """Interactive traffic alone, then the very same with a batch behind it."""
    seconds = max(20.0, plan.seconds * 30)
    tenants = {"boss": 'class = "high"', "night": 'class = "low"'}
    with site(
        plan.folder / "batch",
        tenants,
        engines=ENGINES,
        engine_options=ENGINE,
        engine_terms=f"in_flight_max = {PLACES}",
        extra=f"[batch]\nparallel_max = {2 * PLACES * ENGINES}\n",
    ) as place:
        run(lambda: _interactive(place, WARM_S))
        quiet = run(lambda: _interactive(place, seconds))
        name = _start_batch(place)
        _wait_until_full(place)
        busy, used = run(lambda: _beside(place, seconds))
        key = {"authorization": f"Bearer {place.keys['night']}"}
        http_call(place.door.port, "POST", f"/v1/batches/{name}/cancel", headers=key)
    evicted = _evictions(plan, tenants)
    firsts = [(a.first_s, b.first_s) for (_, a), (_, b) in zip(quiet, busy, strict=True)]
    low, high = _interval(firsts)
    return {
        "idle_used_share": used,
        "interactive_ttft_p99_ratio": _p99_ratio(firsts),
        "interactive_ttft_p99_ratio_low": low,
        "interactive_ttft_p99_ratio_high": high,
        "interactive_ttft_p99_ms": load.percentile([a for a, _ in firsts], 0.99) * 1e3,
        "interactive_ttft_p99_beside_ms": load.percentile([b for _, b in firsts], 0.99) * 1e3,
        "interactive_requests": len(firsts),
        "evicted": len(evicted),
        "evicted_ms_p50": load.percentile(evicted, 0.5),
        "evicted_ms_p99": load.percentile(evicted, 0.99),
    }


Asked = tuple[tuple[int, int, float], Told]


async def _interactive(place: Site, seconds: float) -> list[Asked]:
    """Poisson arrivals; the same requests at the same times whenever it is called."""
    askers = Askers(place.door.port)
    dice = random.Random(3)
    wanted = []
    due_s = 0.0
    while due_s < seconds:
        due_s += dice.expovariate(RATE_PER_S * ENGINES)
        wanted.append((*CONVERSATION.draw(dice), due_s))
    began_s = time.monotonic()
    tasks = []
    for prompt, output, at_s in wanted:
        asked = message(place.door.port, place.keys["boss"], _text(prompt), output, stream=True)
        await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
        tasks.append(asyncio.create_task(askers.ask(asked)))
    told = await asyncio.gather(*tasks)
    askers.close()
    return list(zip(wanted, told, strict=True))


def _text(tokens: int) -> str:
    """A prompt of so many tokens that begins like no other: all of it has to be read."""
    return f"{random.getrandbits(64):016x}" + "four" * max(0, tokens - 4)


def seconds_of(profile: Profile, prompt: float, output: float) -> float:
    """Of a full engine's time, what these tokens take.

    Each token's own time, and of the rest of a step, which all that run there share, an equal
    part for each token that comes out: an engine that is always full spends all its time so.
    """
    shared_s = profile.base_s / profile.sequences_max
    return profile.per_token_s * (prompt + output) + shared_s * output


async def _beside(place: Site, seconds: float) -> tuple[list[Asked], float]:
    """Interactive traffic beside a batch, and the share that the batch uses of what it leaves.

    Looked at from when there is as much of it as there will be until the last of it comes.
    """
    asking = asyncio.create_task(_interactive(place, seconds))
    await asyncio.sleep(SETTLE_S)
    before, from_s = await asyncio.to_thread(_tokens, place), time.monotonic()
    await asyncio.sleep(seconds - SETTLE_S)
    after, until_s = await asyncio.to_thread(_tokens, place), time.monotonic()
    told = await asking
    prompt, output = (now - then for now, then in zip(after, before, strict=True))
    taken_s = sum(_taken_s(one, from_s, until_s) for one in told)
    idle_s = ENGINES * (until_s - from_s) - taken_s
    return told, (seconds_of(PROFILE, prompt, output) - taken_s) / idle_s


def _tokens(place: Site) -> tuple[float, float]:
    return place.counters("prompt_tokens_total"), place.counters("generation_tokens_total")


def _taken_s(asked: Asked, from_s: float, until_s: float) -> float:
    """What one request took in a span: its prompt until its first token, then evenly."""
    (prompt, _, _), told = asked
    read_s = told.began_s + told.first_s
    read = _overlap(told.began_s, read_s, from_s, until_s)
    made = _overlap(read_s, told.ended_s, from_s, until_s)
    return seconds_of(PROFILE, read * prompt, made * told.output_tokens)


def _overlap(begin: float, end: float, first: float, last: float) -> float:
    """How much of a span lies in another one."""
    return max(0.0, min(end, last) - max(begin, first)) / (end - begin) if end > begin else 0.0


def _wait_until_full(place: Site) -> None:
    until_s = time.monotonic() + FULL_WITHIN_S
    while place.counters("num_requests_running") < FULL_SHARE * PLACES * len(place.engines):
        if time.monotonic() > until_s:
            raise InputError(f"the batch did not fill the engines within {FULL_WITHIN_S:.0f} s.")
        time.sleep(0.5)
    time.sleep(3.0)  # they were filled at once: let their requests come apart


def _p99_ratio(firsts: list[tuple[float, float]]) -> float:
    alone, beside = zip(*firsts, strict=True)
    return load.percentile(list(beside), 0.99) / load.percentile(list(alone), 0.99)


def _interval(firsts: list[tuple[float, float]]) -> tuple[float, float]:
    """Where the ratio lies with 90 %, by drawing pairs of the same request again and again."""
    dice = random.Random(5)
    ratios = sorted(_p99_ratio(dice.choices(firsts, k=len(firsts))) for _ in range(DRAWS))
    return ratios[DRAWS // 20], ratios[-1 - DRAWS // 20]


def _evictions(plan: Plan, tenants: dict[str, str]) -> list[float]:
    with site(
        plan.folder / "evictions",
        tenants,
        engine_options=ENGINE,
        engine_terms=f"in_flight_max = {PLACES}",
    ) as place:
        time.sleep(2.0)
        _start_batch(place)
        _wait_until_full(place)
        evicted: list[float] = run(lambda: _evictions_ms(place))
    return evicted


async def _evictions_ms(place: Site) -> list[float]:
    """From the coming of each request that needs a batch's place to an engine's knowing of it.

    They come one by one, so far apart that a cancellation is the last one's doing.
    """
    askers = Askers(place.door.port)
    asked = message(place.door.port, place.keys["boss"], "quick", NEEDY_TOKENS, stream=True)
    came_s, tasks = [], []
    for number in range(NEEDY):
        if number % NEEDY_AT_ONCE == 0:
            await asyncio.sleep(NEEDY_PAUSE_S)
        came_s.append(time.monotonic())
        tasks.append(asyncio.create_task(askers.ask(asked)))
        await asyncio.sleep(NEEDY_GAP_S)
    over_s = time.monotonic()
    aborts = await asyncio.to_thread(place.aborts)
    await asyncio.gather(*tasks)
    askers.close()
    seen = [at_s for _, at_s in aborts if came_s[0] <= at_s <= over_s]
    return [(at_s - came_s[bisect.bisect(came_s, at_s) - 1]) * 1e3 for at_s in seen]


def _start_batch(place: Site) -> str:
    dice = random.Random(4)
    rows = []
    for number in range(LINES):
        prompt, output = LINE.draw(dice)
        messages = [{"role": "user", "content": _text(prompt)}]
        body = {"model": MODEL, "messages": messages, "max_tokens": output}
        line = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions"}
        rows.append(json.dumps({**line, "body": body}).encode())
    edge = "headgate-bench"
    form = (
        f'--{edge}\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{edge}\r\ncontent-disposition: form-data; name="file"; filename="lines.jsonl"\r\n'
        f"content-type: application/jsonl\r\n\r\n"
    ).encode()
    form += b"\n".join(rows) + f"\r\n--{edge}--\r\n".encode()
    key = {"authorization": f"Bearer {place.keys['night']}"}
    post = partial(http_call, place.door.port, "POST")
    kind = {"content-type": f"multipart/form-data; boundary={edge}"}
    file = json.loads(post("/v1/files", form, key | kind))
    fields = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    kind = {"content-type": "application/json"}
    made = json.loads(post("/v1/batches", json.dumps(fields).encode(), key | kind))
    return str(made["id"])
