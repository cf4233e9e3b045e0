"""A span for each request, sent to an OpenTelemetry collector: off unless the config names one.

A span is made when a request is over, from its usage record, so the path itself only draws two
numbers. The engine is told the span's id in `traceparent`, so that its own spans hang below ours.
Spans carry names and counts, never a prompt or a key.
"""

import random
import re
from typing import NamedTuple

from headgate.core.errors import InputError
from headgate.gateway.config import Traces as Terms
from headgate.ledger.usage import UsageRecord

try:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import IdGenerator
except ImportError as error:  # pragma: no cover - depends on what is installed
    raise InputError(
        "traces.endpoint is set, but OpenTelemetry is not installed; "
        "run `pip install headgate[otel]`, or drop the table `traces`."
    ) from error

NANO = 1_000_000_000
_PARENT = re.compile(rb"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")


class Span(NamedTuple):
    """Where a request stands in its trace."""

    trace: int
    span: int
    parent: int  # 0: the trace begins here

    def header(self) -> str:
        """What the engine is told."""
        return f"00-{self.trace:032x}-{self.span:016x}-01"


class Traces:
    """Draws spans and sends them, in groups and on a thread of their own."""

    def __init__(self, terms: Terms, processor: SpanProcessor | None = None) -> None:
        self._share = terms.share
        self._ids = _Given()
        resource = Resource.create({"service.name": "headgate"})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids)
        self._provider.add_span_processor(
            processor or BatchSpanProcessor(OTLPSpanExporter(endpoint=terms.endpoint))
        )
        self._tracer = self._provider.get_tracer("headgate.gateway")

    def begin(self, parent: bytes | None) -> Span | None:
        """A request's span; None if it is not one of those that are traced.

        A client that sent a `traceparent` has decided; of the others `share` are traced.
        """
        said = _PARENT.fullmatch(parent) if parent else None
        if said is None:
            if random.random() >= self._share:
                return None
            return Span(random.getrandbits(128) or 1, random.getrandbits(64) or 1, 0)
        if not int(said[3], 16) & 1:
            return None
        return Span(int(said[1], 16), random.getrandbits(64) or 1, int(said[2], 16))

    def end(self, span: Span, usage: UsageRecord) -> None:
        """Send the span of a request that is over."""
        context = None
        if span.parent:
            flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
            above = trace.SpanContext(span.trace, span.parent, is_remote=True, trace_flags=flags)
            context = trace.set_span_in_context(trace.NonRecordingSpan(above))
        self._ids.next = span
        made = self._tracer.start_span(
            f"{usage.endpoint} {usage.model}",
            context,
            trace.SpanKind.SERVER,
            attributes={
                "gen_ai.request.model": usage.model,
                "gen_ai.usage.input_tokens": usage.input_tokens,
                "gen_ai.usage.output_tokens": usage.output_tokens,
                "http.response.status_code": usage.status,
                "headgate.request": usage.request,
                "headgate.tenant": usage.tenant,
                "headgate.class": usage.class_,
                "headgate.tier": usage.tier,
                "headgate.engine": usage.engine,
                "headgate.outcome": usage.outcome,
                "headgate.attempts": usage.attempts,
                "headgate.queued_s": usage.queued_s,
                "headgate.first_byte_s": usage.first_byte_s,
            },
            start_time=int(usage.started_s * NANO),
        )
        if usage.status >= 500:
            made.set_status(trace.StatusCode.ERROR, usage.outcome)
        made.end(int((usage.started_s + usage.took_s) * NANO))

    def stop(self) -> None:
        """Send what is left. Blocks for a moment."""
        self._provider.shutdown()


class _Given(IdGenerator):
    """The ids that `begin` has drawn."""

    def __init__(self) -> None:
        self.next = Span(1, 1, 0)

    def generate_trace_id(self) -> int:
        return self.next.trace

    def generate_span_id(self) -> int:
        return self.next.span
