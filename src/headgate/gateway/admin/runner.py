"""Runs batches: line by line through the door, at the lowest order, surviving restarts.

The life of a batch: its input is looked through (`validating`); its lines are sent as fast as
the door has room for them, each answer goes to the journal (`in_progress`); when all are
answered, time is up or it is cancelled, the journal becomes the output and error files
(`finalizing`), with whatever was answered by then.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec

from headgate.gateway.admin.desk import Desk, in_thread
from headgate.gateway.admin.front import Answer, Front
from headgate.gateway.admin.journal import Journal, Kind
from headgate.gateway.admin.lines import Input, look_through
from headgate.gateway.admin.slots import Slots
from headgate.store.batches import CLAIM_S, Batch, Counts, LineError, Status
from headgate.store.database import StoreAway

LOG = logging.getLogger(__name__)
LOOK_S = 1.0  # between looks for new batches and cancellations
ROOM_S = 0.05  # between questions for room
KEEP_S = CLAIM_S / 3
URGENT_SHARE = 0.5  # of the time left that the rest may take before it counts as in danger
HASTE_S = 300.0  # a batch of unknown pace is in danger when it has less than this
GRACE_S = 10.0  # for what is under way when a batch is cancelled
TRIES = 5  # of a line that an engine fails on
PAUSE_MIN_S = 0.2
PAUSE_MAX_S = 10.0
AGAIN_CODES = frozenset(("limit_requests", "limit_tokens", "limit_growth"))
ANSWER_FIELDS = ("choices", "data", "output")


class Runner:
    """All batches this process works on."""

    def __init__(self, desk: Desk, front: Front, name: str, workers: int = 1) -> None:
        self._desk = desk
        self._front = front
        self._name = name
        self._workers = workers
        self._slots = Slots(1)
        self._runs: dict[str, tuple[_Run, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Work until cancelled; what is under way then is taken up again at the next start."""
        room = asyncio.create_task(self._follow_room())
        try:
            while True:
                await self._look()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._desk.wake.wait()
                self._desk.wake.clear()
        finally:
            tasks = [room, *(task for _, task in self._runs.values())]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        """Start what is new, stop what is cancelled or no longer ours."""
        try:
            claimed = await in_thread(lambda: self._desk.batches.claim(self._name))
        except StoreAway:
            return
        ours = {batch.id: batch for batch in claimed}
        for batch_id, (run, task) in list(self._runs.items()):
            if task.done():
                del self._runs[batch_id]
            elif batch_id not in ours:
                task.cancel()
            elif ours[batch_id].status == "cancelling":
                run.stop()
        for batch in claimed:
            if batch.id not in self._runs:
                run = _Run(self._desk, self._front, self._slots, batch)
                self._runs[batch.id] = (run, asyncio.create_task(_logged(run.work(), batch.id)))

    async def _follow_room(self) -> None:
        """Keep as many lines under way as the door has room for."""
        slots, most = self._slots, self._desk.terms.parallel_max
        while True:
            if slots.wanted:
                with contextlib.suppress(OSError, msgspec.MsgspecError):
                    answer = await self._front.ask("GET", "/internal/room")
                    room = msgspec.json.decode(answer.body, type=_Room).batch_room
                    slots.limit = max(1, min(most, slots.taken + room * self._workers))
                    slots.serve()
            await asyncio.sleep(ROOM_S)


class _Room(msgspec.Struct):
    batch_room: int


async def _logged(work: Coroutine[Any, Any, None], batch_id: str) -> None:
    try:
        await work
    except StoreAway:
        await asyncio.sleep(LOOK_S)  # it is taken up again by the next look
    except Exception:
        LOG.exception("batch %s", batch_id)
        await asyncio.sleep(PAUSE_MAX_S)


class _Run:
    """One batch from where it stands to its end."""

    def __init__(self, desk: Desk, front: Front, slots: Slots, batch: Batch) -> None:
        self._desk = desk
        self._front = front
        self._slots = slots
        self._batch = batch
        self._stopped = asyncio.Event()
        self._counted = batch.request_counts
        self._urgent = False  # at its pace it would miss its deadline
        if batch.status == "cancelling":
            self._stopped.set()

    def stop(self) -> None:
        """Send no more; end with what is answered."""
        self._stopped.set()

    async def work(self) -> None:
        lines = await in_thread(self._look_through)
        journal = await in_thread(lambda: Journal(self._path("output"), self._path("error")))
        try:
            if lines.errors:
                await self._fail(lines.errors, journal)
                return
            model = min(lines.models) if len(lines.models) == 1 else None
            await self._change(_begun(model, len(lines.custom_ids)))
            await self._send_all(lines, journal)
            await self._finalize(lines, journal)
        finally:
            journal.close()
            lines.close()

    def _look_through(self) -> Input:
        batch, desk = self._batch, self._desk
        file = desk.files.get(batch.tenant, batch.input_file_id)
        if file is None or not desk.path(file).exists():
            gone = LineError("file_not_found", f"The file {batch.input_file_id} was deleted.")
            return Input(errors=[gone])
        models = desk.models_of(desk.accounts.tenant(batch.tenant))
        return look_through(desk.path(file), batch.endpoint, models, desk.terms.lines_max)

    # Sending.

    async def _send_all(self, lines: Input, journal: Journal) -> None:
        """Send what is not answered yet; returns when all is, or time is up, or it is stopped."""
        if self._stopped.is_set():
            return
        rest = [i for i, name in enumerate(lines.custom_ids) if name not in journal]
        sending = asyncio.create_task(self._send(rest, lines, journal))
        watching = asyncio.create_task(self._watch(journal))
        stopped = asyncio.create_task(self._stopped.wait())
        tasks = (sending, watching, stopped)
        try:
            await asyncio.wait(
                [sending, stopped],
                timeout=max(0.0, self._batch.expires_at - time.time()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if self._stopped.is_set():
                # What an engine is at may end, and is kept; nothing new is begun.
                await asyncio.wait([sending], timeout=GRACE_S)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _send(self, rest: list[int], lines: Input, journal: Journal) -> None:
        begun = asyncio.Semaphore(self._desk.terms.parallel_max)

        async def answer(line: int) -> None:
            try:
                name = lines.custom_ids[line]
                given = await self._ask(line, lines.body(line))
                if given is not None:
                    journal.add(*_line_of(self._line_id(line), name, given))
            finally:
                begun.release()

        async with asyncio.TaskGroup() as group:
            for line in rest:
                await begun.acquire()
                if self._stopped.is_set():
                    return
                group.create_task(answer(line))

    async def _ask(self, line: int, body: bytes) -> Answer | None:
        """Ask until there is an answer to keep, or the batch is stopped; the deadline ends this
        from outside."""
        headers = {
            "x-headgate-tenant": self._batch.tenant,
            "x-headgate-key": self._batch.key,
            "x-headgate-order": f"{self._batch.id}/{line}",
        }
        failures = 0
        pause_s = PAUSE_MIN_S
        while True:
            wait_s = pause_s
            await self._slots.take(self._urgent, self._batch.tenant, float(self._batch.expires_at))
            try:
                if self._stopped.is_set():
                    return None
                answer = await self._front.ask("POST", self._batch.endpoint, headers, body)
                verdict = _verdict(answer)
                failures += verdict == "failed"
                if verdict == "keep" or failures >= TRIES:
                    return answer
                wait_s = max(pause_s, answer.retry_after_s)
            except OSError:
                pass  # the gateway is restarting
            finally:
                self._slots.give()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(PAUSE_MAX_S, wait_s)):
                    await self._stopped.wait()
            pause_s = min(PAUSE_MAX_S, pause_s * 2)

    def _line_id(self, line: int) -> str:
        return f"batch_req_{self._batch.id.removeprefix('batch_')}_{line}"

    # Telling.

    async def _watch(self, journal: Journal) -> None:
        """Keep the counts in the store and the journal on disk in step with what is done."""
        began_s, before = time.time(), len(journal)
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = time.time()
            self._urgent = in_danger(
                self._counted.total - len(journal),
                len(journal) - before,
                now_s - began_s,
                self._batch.expires_at - now_s,
            )
            await in_thread(journal.sync)
            counts = _counts(journal, self._counted.total)
            if counts != self._counted:
                with contextlib.suppress(StoreAway):
                    await self._change(
                        lambda one, now_s, counts=counts: msgspec.structs.replace(
                            one, request_counts=counts
                        )
                    )

    async def _finalize(self, lines: Input, journal: Journal) -> None:
        """List the journal's files and end the batch."""
        await self._change(_finalizing)
        end: Status = "cancelled" if self._stopped.is_set() else "completed"
        if len(journal) < len(lines.custom_ids):
            end = "cancelled" if self._stopped.is_set() else "expired"
            await in_thread(lambda: self._add_unanswered(lines, journal, end))
        await in_thread(journal.sync)
        output = await in_thread(lambda: self._list("output", journal))
        error = await in_thread(lambda: self._list("error", journal))
        counts = _counts(journal, len(lines.custom_ids))
        assert counts.completed + counts.failed == counts.total, "a line was left out"
        await self._end(end, output_file_id=output, error_file_id=error, request_counts=counts)

    async def _fail(self, errors: list[LineError], journal: Journal) -> None:
        """End a batch that cannot be run, or not any more: its input was deleted in between."""
        output = await in_thread(lambda: self._list("output", journal))
        error = await in_thread(lambda: self._list("error", journal))
        await self._end("failed", errors=tuple(errors), output_file_id=output, error_file_id=error)

    def _add_unanswered(self, lines: Input, journal: Journal, end: Status) -> None:
        """Say of each line without an answer why it has none."""
        why = {
            "expired": "This request could not be executed before the completion window expired.",
            "cancelled": "This request was not executed because the batch was cancelled.",
        }[end]
        for line, name in enumerate(lines.custom_ids):
            if name not in journal:
                journal.add(*_without_answer(self._line_id(line), name, f"batch_{end}", why))

    def _file_id(self, kind: Kind) -> str:
        # The same whenever this is done again after a crash.
        return f"file-{self._batch.id.removeprefix('batch_')}-{kind}"

    def _path(self, kind: Kind) -> Path:
        return self._desk.folder / self._file_id(kind)

    def _list(self, kind: Kind, journal: Journal) -> str | None:
        """Put a file into the tenant's list; its id, None if nothing is in it."""
        batch, files, file_id = self._batch, self._desk.files, self._file_id(kind)
        size = journal.size(kind)
        if size and files.get(batch.tenant, file_id) is None:
            files.add(file_id, batch.tenant, size, f"{batch.id}_{kind}.jsonl", "batch_output")
        return file_id if size else None

    async def _change(self, change: Any) -> None:
        changed = await in_thread(lambda: self._desk.batches.change(self._batch.id, change))
        if changed is None:
            raise asyncio.CancelledError  # the batch is gone
        self._counted = changed.request_counts
        if changed.status == "cancelling":
            self._stopped.set()

    async def _end(self, status: Status, **values: Any) -> None:
        def end(batch: Batch, now_s: int) -> Batch:
            return msgspec.structs.replace(
                batch, status=status, **{f"{status}_at": now_s}, **values
            )

        await in_thread(lambda: self._desk.batches.change(self._batch.id, end))


def in_danger(rest: int, done: int, took_s: float, left_s: float) -> bool:
    """Whether `rest` lines, at the pace at which `done` took `took_s`, may take too long."""
    if not done:
        return left_s < HASTE_S
    return rest * took_s / done > URGENT_SHARE * left_s


def _begun(model: str | None, total: int) -> Any:
    def change(batch: Batch, now_s: int) -> Batch:
        counts = msgspec.structs.replace(batch.request_counts, total=total)
        if batch.status != "validating":
            return msgspec.structs.replace(batch, model=model, request_counts=counts)
        return msgspec.structs.replace(
            batch, model=model, request_counts=counts, status="in_progress", in_progress_at=now_s
        )

    return change


def _finalizing(batch: Batch, now_s: int) -> Batch:
    if batch.status != "in_progress":
        return batch
    return msgspec.structs.replace(batch, status="finalizing", finalizing_at=now_s)


def _counts(journal: Journal, total: int) -> Counts:
    return Counts(total, len(journal.done["output"]), len(journal.done["error"]))


class _Problem(msgspec.Struct):
    code: str | int | None = None


class _Refused(msgspec.Struct):
    error: _Problem | str | None = None


def _verdict(answer: Answer) -> str:
    """keep: it is the line's answer; again: not now; failed: an engine's fault, a few times."""
    if answer.status < 300:
        return "keep" if _is_whole(answer.body) else "failed"
    if answer.status == 429:
        return "again" if _code(answer.body) != "insufficient_quota" else "keep"
    if answer.status in (408, 503):
        return "again"
    return "failed" if answer.status >= 500 else "keep"


def _code(body: bytes) -> str | int | None:
    try:
        error = msgspec.json.decode(body, type=_Refused).error
    except msgspec.MsgspecError:
        return None
    return error.code if isinstance(error, _Problem) else None


def _is_whole(body: bytes) -> bool:
    """Whether an answer has anything in it: an empty one is no answer."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return False
    return any(bytes(fields.get(name, b"[]")) not in (b"[]", b"null") for name in ANSWER_FIELDS)


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Error(msgspec.Struct):
    code: str
    message: str


class _OutputLine(msgspec.Struct):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


def _line_of(line_id: str, custom_id: str, answer: Answer) -> tuple[Kind, str, bytes]:
    """An answer as its line of the output or error file."""
    good = answer.status < 300
    if good and not _is_whole(answer.body):
        return _without_answer(
            line_id, custom_id, "empty_answer", "The engine gave an empty answer, several times."
        )
    try:
        # Engines may format their JSON over several lines; a file of lines may not.
        body = msgspec.json.encode(msgspec.json.decode(answer.body))
    except msgspec.MsgspecError:
        return _without_answer(
            line_id, custom_id, "bad_answer", f"The engine's answer {answer.status} is not JSON."
        )
    response = _Response(answer.status, answer.request_id, msgspec.Raw(body))
    line = msgspec.json.encode(_OutputLine(line_id, custom_id, response, None))
    return "output" if good else "error", custom_id, line


def _without_answer(
    line_id: str, custom_id: str, code: str, message: str
) -> tuple[Kind, str, bytes]:
    line = msgspec.json.encode(_OutputLine(line_id, custom_id, None, _Error(code, message)))
    return "error", custom_id, line
