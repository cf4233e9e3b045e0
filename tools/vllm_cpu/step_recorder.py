"""A vLLM scheduler that also notes what it did, step by step. Loaded by vLLM, not by Headgate.

`vllm serve --scheduler-cls step_recorder.RecordingScheduler` with HEADGATE_STEPS naming a file.
It decides nothing: it writes one JSON line for each step and each finished request. All stamps
are seconds of the machine's monotonic clock, except `arrival_time` (wall clock), as in vLLM's
own per-request statistics.

A step:    {"at", "ended", "decodes", "decode_kv", "chunks": [[context, tokens], ...], "waiting"}
           `decode_kv` sums the tokens in memory of the decoding sequences before the step;
           a chunk is a piece of prompt (or of recomputation): tokens in memory before it, its size.
A request: {"request_id", "input_toks", "output_toks", "arrival_time", "queued_ts",
           "scheduled_ts", "first_token_ts", "last_token_ts", "preemptions", "cached_toks"}
"""

import json
import os
import time

from vllm.v1.core.sched.scheduler import Scheduler


class RecordingScheduler(Scheduler):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._log = open(os.environ["HEADGATE_STEPS"], "a", buffering=1)  # noqa: SIM115
        self._seen = {}
        self._step = None

    def add_request(self, request):
        super().add_request(request)
        self._seen[request.request_id] = (request, {"queued_ts": time.monotonic()})

    def schedule(self, *args, **kwargs):
        at = time.monotonic()
        output = super().schedule(*args, **kwargs)
        self._step = {"at": at, "ended": None, **self._composition(output, at)}
        return output

    def _composition(self, output, at):
        decodes = decode_kv = 0
        chunks = []
        for request_id, tokens in output.num_scheduled_tokens.items():
            request, stamps = self._seen[request_id]
            if "scheduled_ts" not in stamps:
                stamps["scheduled_ts"] = at
                stamps["cached_toks"] = request.num_computed_tokens - tokens
            context = request.num_computed_tokens - tokens  # schedule() has moved it on
            if request.num_output_tokens and context + 1 == request.num_tokens:
                decodes += 1
                decode_kv += context
            else:
                chunks.append([context, tokens])
        return {
            "decodes": decodes,
            "decode_kv": decode_kv,
            "chunks": chunks,
            "waiting": len(self.waiting),
        }

    def update_from_output(self, scheduler_output, model_runner_output):
        outputs = super().update_from_output(scheduler_output, model_runner_output)
        ended = time.monotonic()
        if self._step and scheduler_output.total_num_scheduled_tokens:
            self._step["ended"] = ended
            self._log.write(json.dumps(self._step) + "\n")
        for client in outputs.values():
            for output in client.outputs:
                self._token(output, ended)
        return outputs

    def _token(self, output, at):
        if output.request_id not in self._seen:
            return
        request, stamps = self._seen[output.request_id]
        if output.new_token_ids:
            stamps.setdefault("first_token_ts", at)
            stamps["last_token_ts"] = at
        if output.finish_reason is not None:
            self._finished(request, stamps)

    def finish_requests(self, request_ids, finished_status):
        aborted = super().finish_requests(request_ids, finished_status)
        for request_id in [request_ids] if isinstance(request_ids, str) else request_ids or ():
            if request_id in self._seen:  # else it had finished before the client left
                self._finished(*self._seen[request_id])
        return aborted

    def _finished(self, request, stamps):
        del self._seen[request.request_id]
        line = {
            "request_id": request.request_id,
            "input_toks": request.num_prompt_tokens,
            "output_toks": request.num_output_tokens,
            "arrival_time": request.arrival_time,
            **stamps,
            "preemptions": request.num_preemptions,
        }
        self._log.write(json.dumps(line) + "\n")
