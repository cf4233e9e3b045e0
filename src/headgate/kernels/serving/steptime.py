"""How long iterations take, one at a time or many at once.

Between two changes of a batch each decoding sequence grows by one token an iteration, so the mean
context grows by exactly one and a run of n iterations sums in closed form: a quadratic for the
linear term, one product for each bucket of a table (a model has one or the other).
"""

from math import ceil, sqrt

from headgate.kernels.serving.compiling import inlined
from headgate.kernels.serving.layout import At, Tables


@inlined
def decode_run(tables: Tables, m: int, b: int, kv: int, n: int, need_s: float) -> tuple[int, float]:
    """The fewest iterations (1 to n) that last at least need_s, and how long they last, where each
    only decodes b sequences, which hold kv tokens at the first."""
    base = tables.base_s[m, b]
    per_kv = tables.kv_s[m]
    last = tables.decode_s.shape[2] - 1
    if last < 0:
        first = base + per_kv * kv
        return linear_run(first, per_kv * b, n, need_s)
    mean = int(kv / b)  # exact below 2^53, and half the time of an integer division
    k = (mean + tables.bucket - 1) >> tables.shift
    room = k * tables.bucket - mean + 1
    passed_s = 0.0
    done = 0
    while True:
        count = min(n - done, room)
        each_s = base + tables.decode_s[m, b, At(min(k, last))]
        whole_s = passed_s + count * each_s
        if whole_s >= need_s:
            break
        passed_s = whole_s
        done += count
        if done == n:
            return n, passed_s
        room = tables.bucket
        k += 1
    j = min(max(1, ceil((need_s - passed_s) / each_s)), count)
    while j > 1 and passed_s + (j - 1) * each_s >= need_s:
        j -= 1
    while j < count and passed_s + j * each_s < need_s:
        j += 1
    return done + j, passed_s + j * each_s


@inlined
def linear_run(first_s: float, grow_s: float, n: int, need_s: float) -> tuple[int, float]:
    """The same where the first iteration takes first_s and each grow_s more than the one before."""
    whole_s = n * first_s + grow_s * (0.5 * n * (n - 1))
    if whole_s < need_s:
        return n, whole_s
    if grow_s > 0.0:
        lean = first_s - 0.5 * grow_s
        guess = (sqrt(lean * lean + 2.0 * grow_s * need_s) - lean) / grow_s
    else:
        guess = need_s / first_s
    j = min(max(1, ceil(guess)), n)
    while j > 1 and (j - 1) * first_s + grow_s * (0.5 * (j - 1) * (j - 2)) >= need_s:
        j -= 1
    while j < n and j * first_s + grow_s * (0.5 * j * (j - 1)) < need_s:
        j += 1
    return j, j * first_s + grow_s * (0.5 * j * (j - 1))


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
        tables.linear_s[m, At(tokens)]
        + tables.sequence_s[m, At(b + prompts)]
        + tables.mixed_kv_s[m] * kv
        + tables.chunk_s[m] * area
    )
    last = tables.decode_s.shape[2] - 1
    if b > 0 and last >= 0:
        k = (int(kv / b) + tables.bucket - 1) >> tables.shift
        part_of = tables.mixed_at[m, At(tokens - b)] if tables.mixed_s.shape[1] > 1 else 0
        seconds += tables.mixed_s[m, At(part_of), b, At(min(k, last))]
    last = tables.prefill_s.shape[1] - 1
    if last >= 0:
        chunk = round(sqrt(float(squares))) if prompts > 1 else tokens - b
        chunk = min(chunk, tables.prefill_s.shape[2] - 1)
        part = tables.prefill_s[m, At(min(context, last)), At(chunk)]
        seconds += part * (tables.several[m] if prompts > 1 else 1.0)
    return seconds
