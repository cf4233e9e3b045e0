"""How long iterations take, one at a time or many at once.

Between two changes of a batch each decoding sequence grows by one token an iteration, so the mean
context grows by exactly one and a run of n iterations sums in closed form: a quadratic for the
linear term, one product for each bucket of a table (a model has one or the other).
"""

from math import ceil, sqrt

from headgate.kernels.serving.compiling import inlined
from headgate.kernels.serving.layout import Tables


@inlined
def decode_run_s(tables: Tables, m: int, b: int, kv: int, n: int) -> float:
    """Seconds of n iterations that only decode b sequences holding kv tokens at the first."""
    base = tables.base_s[m, b]
    per_kv = tables.kv_s[m]
    last = tables.decode_s.shape[2] - 1
    if last < 0:
        return n * (base + per_kv * kv) + per_kv * b * (0.5 * n * (n - 1))
    mean = int(kv / b)  # exact below 2^53, and half the time of an integer division
    k = (mean + tables.bucket - 1) >> tables.shift
    room = k * tables.bucket - mean + 1
    seconds = 0.0
    while n > 0:
        count = min(n, room)
        seconds += count * (base + tables.decode_s[m, b, min(k, last)])
        n -= count
        room = tables.bucket
        k += 1
    return seconds


@inlined
def iterations_until(tables: Tables, m: int, b: int, kv: int, n: int, need_s: float) -> int:
    """The fewest iterations (1 to n) of a decode run that last at least need_s."""
    base = tables.base_s[m, b]
    per_kv = tables.kv_s[m]
    last = tables.decode_s.shape[2] - 1
    if last < 0:
        first = base + per_kv * kv
        grow = per_kv * b
        if grow > 0.0:
            lean = first - 0.5 * grow
            guess = (sqrt(lean * lean + 2.0 * grow * need_s) - lean) / grow
        else:
            guess = need_s / first
        j = min(max(1, ceil(guess)), n)
        while j > 1 and (j - 1) * first + grow * (0.5 * (j - 1) * (j - 2)) >= need_s:
            j -= 1
        while j < n and j * first + grow * (0.5 * j * (j - 1)) < need_s:
            j += 1
        return j
    mean = int(kv / b)  # exact below 2^53, and half the time of an integer division
    k = (mean + tables.bucket - 1) >> tables.shift
    room = k * tables.bucket - mean + 1
    passed = 0.0
    done = 0
    while done < n:
        count = min(n - done, room)
        each = base + tables.decode_s[m, b, min(k, last)]
        if passed + count * each >= need_s:
            j = min(max(1, ceil((need_s - passed) / each)), count)
            while j > 1 and passed + (j - 1) * each >= need_s:
                j -= 1
            while j < count and passed + j * each < need_s:
                j += 1
            return done + j
        passed += count * each
        done += count
        room = tables.bucket
        k += 1
    return n


@inlined
def mixed_step_s(
    tables: Tables,
    m: int,
    b: int,
    kv: int,
    tokens: int,
    prompts: int,
    squares: int,
    context: int,
    area: float,
) -> float:
    """Seconds of one iteration with prompts in it.

    b sequences holding kv tokens decode; the chunks of `prompts` prompts make up the rest of
    `tokens`, with `squares` the sum of their squares, `context` the sum of their contexts in
    buckets and `area` the sum of chunk x (context + chunk / 2).
    """
    seconds = (
        tables.linear_s[m, tokens]
        + tables.sequence_s[m, b + prompts]
        + tables.mixed_kv_s[m] * kv
        + tables.chunk_s[m] * area
    )
    last = tables.decode_s.shape[2] - 1
    if b > 0 and last >= 0:
        k = (int(kv / b) + tables.bucket - 1) >> tables.shift
        seconds += tables.mixed_s[m, tables.mixed_at[m, tokens - b], b, min(k, last)]
    last = tables.prefill_s.shape[1] - 1
    if last >= 0:
        chunk = round(sqrt(float(squares))) if prompts > 1 else tokens - b
        part = tables.prefill_s[m, min(context, last), min(chunk, tables.prefill_s.shape[2] - 1)]
        seconds += part * (tables.several[m] if prompts > 1 else 1.0)
    return seconds
