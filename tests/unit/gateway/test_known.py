"""Heads that are remembered: found again only where the parser would say the same."""

import httptools
from hypothesis import given
from hypothesis import strategies as st

from headgate.gateway import compiled
from headgate.gateway.known import KEPT_FOR_S, KEPT_MAX, Known

NAMES = st.sampled_from([b"Host: a", b"X-Strength: 12", b"Accept: */*", b"content-Length: 7"])


def message(length: bytes, body: bytes, *others: bytes) -> bytes:
    lines = [b"POST /v1 HTTP/1.1", *others, b"Content-Length: " + length]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def find(known, data):
    """What is known of the head and the body, if `data` is one message with a known head."""
    form = known.find(data)
    body = form.body_of(data) if form is not None else None
    return None if body is None else (form.head, body)


class Told:
    """What the parser finds in some bytes: headers and body of each whole message."""

    def __init__(self, data: bytes) -> None:
        self.whole: list[tuple[list[tuple[bytes, bytes]], bytes]] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""
        try:
            httptools.HttpRequestParser(self).feed_data(data)
        except httptools.HttpParserError:
            self.whole = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.whole.append((self._headers, self._body))


def test_a_head_is_found_again_before_a_body_of_another_length():
    known: Known[str] = Known()
    known.keep(message(b"2", b"{}"), "head")
    assert find(known, message(b"12", b"x" * 12)) == ("head", b"x" * 12)
    assert find(known, message(b"2", b"{}", b"Host: b")) is None


@given(
    st.lists(NAMES, max_size=3),
    st.text("0123456789+ x,", min_size=1, max_size=4),
    st.binary(max_size=12),
)
def test_what_is_found_is_what_the_parser_says(others, length, body):
    known: Known[object] = Known()
    first = message(b"3", b"abc", *others)
    whole = Told(first).whole
    if len(whole) == 1:
        known.keep(first, "head")
    data = message(length.encode(), body, *others)
    found = find(known, data)
    if found is not None:
        told = Told(data).whole
        assert [said for _, said in told] == [found[1]]
        names = [name for name, _ in told[0][0]]
        assert names == [name for name, _ in whole[0][0]]


@given(st.text("0123456789+ x,", min_size=1, max_size=7), st.binary(max_size=12))
def test_a_form_fits_what_finding_it_anew_fits(length, body):
    known: Known[str] = Known()
    form = known.keep(message(b"3", b"abc"), "head")
    data = message(length.encode(), body)
    found = find(known, data)
    assert form.body_of(data) == (None if found is None else found[1])
    told = Told(data).whole
    if form.body_of(data) is not None:
        assert [said for _, said in told] == [form.body_of(data)]


def test_what_was_forgotten_is_of_another_age():
    known: Known[str] = Known()
    form = known.keep(message(b"2", b"{}"), "head")
    assert form.age == known.age
    known.forget()
    assert form.age != known.age
    assert known.find(message(b"2", b"{}")) is None


def test_only_what_is_one_whole_message_is_kept():
    known: Known[str] = Known()
    for data in (message(b"3", b"{}"), message(b"1", b"{}"), b"GET / HTTP/1.1\r\n\r\n"):
        known.keep(data, "head")
    assert find(known, message(b"2", b"{}")) is None


def test_heads_are_forgotten_when_they_are_old_or_too_many():
    now_s = [0.0]
    known: Known[str] = Known(lambda: now_s[0])
    known.keep(message(b"2", b"{}"), "head")
    for _ in range(2):
        now_s[0] += KEPT_FOR_S + 1.0
        known.keep(message(b"2", b"{}", b"Host: another"), "another")
    assert find(known, message(b"2", b"{}")) is None
    for number in range(3 * KEPT_MAX):
        known.keep(message(b"2", b"{}", b"X-Number: %d" % number), "head")
    assert len(known._young) + len(known._old) <= 2 * KEPT_MAX


def test_what_is_compiled_is_known_by_its_source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = compiled.place()
    source = compiled._source
    changed = tmp_path / "changed.py"
    changed.write_bytes(source(compiled.MODULES[0]).read_bytes() + b"\n")
    monkeypatch.setattr(
        compiled, "_source", lambda name: changed if name == compiled.MODULES[0] else source(name)
    )
    assert compiled.place() != before
    assert not compiled.use()
