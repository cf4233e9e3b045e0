"""Spans of requests, where a collector is named."""

import http.server
import threading

import pytest
from tests.house import answer_from, chat, house, request_for, run, sick

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from headgate.gateway.config import Traces as Terms
from headgate.gateway.traces import Span, Traces

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def traced(share=1.0):
    kept = InMemorySpanExporter()
    return kept, Traces(Terms("http://nowhere", share), SimpleSpanProcessor(kept))


def with_parent(request, flags="01"):
    line = f"traceparent: 00-{TRACE}-{CALLER}-{flags}\r\n".encode()
    return request.replace(b"content-type:", line + b"content-type:", 1)


def test_a_request_leaves_one_span_with_its_counts_and_no_prompt():
    async def story():
        kept, traces = traced()
        async with house() as h:
            h.door.traces = traces
            await h.ask(**chat(max_tokens=3, secret="a word"))
            (record,) = h.meter.records
        (span,) = kept.get_finished_spans()
        assert span.name == "chat/completions m"
        assert span.attributes["gen_ai.usage.output_tokens"] == 3
        assert span.attributes["headgate.request"] == record.request
        assert span.attributes["headgate.outcome"] == "done"
        assert span.parent is None
        assert "a word" not in span.to_json()
        assert (span.end_time - span.start_time) / 1e9 == pytest.approx(record.took_s, abs=1e-5)

    run(story)


def test_a_span_hangs_between_the_callers_and_the_engines():
    sent = []

    def answers(transport, data):
        sent.append(data)
        body = b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}'
        transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))

    async def story():
        kept, traces = traced(share=0.0)
        async with house() as h:
            await sick(h, answers)
            h.door.traces = traces
            for _ in range(2):  # the second time without the caller's word
                asked = request_for(**chat(max_tokens=1))
                reader, _ = await h.send(asked if sent else with_parent(asked))
                await answer_from(reader)
        (span,) = kept.get_finished_spans()
        assert f"{span.context.trace_id:032x}" == TRACE
        assert f"{span.parent.span_id:016x}" == CALLER
        told = f"traceparent: 00-{TRACE}-{span.context.span_id:016x}-01\r\n"
        assert told.encode() in sent[0]
        assert b"traceparent" not in sent[1]

    run(story)


def test_who_says_not_to_trace_is_not_traced():
    kept, traces = traced()
    assert traces.begin(f"00-{TRACE}-{CALLER}-00".encode()) is None
    span = traces.begin(f"00-{TRACE}-{CALLER}-01".encode())
    assert span == Span(int(TRACE, 16), span.span, int(CALLER, 16))
    assert span.header() == f"00-{TRACE}-{span.span:016x}-01"
    assert traces.begin(b"nonsense").parent == 0
    assert not kept.get_finished_spans()


def test_spans_reach_a_collector():
    got = threading.Event()

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            assert b"chat/completions" in self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.end_headers()
            got.set()

        def log_message(self, *args):
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    async def story():
        async with house() as h:
            h.door.traces = Traces(Terms(f"http://127.0.0.1:{server.server_port}/v1/traces"))
            await h.ask(**chat(max_tokens=1))
            return h.door.traces

    try:
        made = []

        async def told():
            made.append(await story())

        run(told)
        made[0].stop()
        assert got.wait(5)
    finally:
        server.shutdown()
        server.server_close()
