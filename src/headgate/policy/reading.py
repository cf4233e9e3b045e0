"""When an engine will have read the prompts it was sent, as far as can be told from outside.

Reading is most of what a first token takes, and the engine's alone to see. What a door sees is
when each prompt was sent and, of streams, when its first token came. A prompt of n tokens sent to
an engine that reads nothing else has its first token after `start_s` + n `token_s`: what is left
of the step in progress and a step of its own, then reading. Both are learnt.
"""

from typing import Final

KEPT: Final = 0.96  # of what was learnt, at each first token
# What makes a first token late (others' prompts, another door) says nothing of reading, and
# nothing makes it early but a cached prompt: so the line leans to the quick ones.
QUICK: Final = 3.0
STEPS: Final = 1.5  # before the first token of no prompt at all: half a step to wait, one's own
AT_NONE: Final = 0.5  # weight of that point: it decides only where nothing else does
RISE: Final = 1.02  # of the shortest step of late, at each first token


class Reading:
    """One engine's prompts that are being read, and how long that takes.

    `begin` and `first_token` know a prompt by its name; what is not known yet is 0.
    """

    __slots__ = (
        "_alone",
        "_last",
        "_n",
        "_nn",
        "_nt",
        "_step_s",
        "_t",
        "_w",
        "start_s",
        "token_s",
        "until_s",
    )

    def __init__(self) -> None:
        self.start_s = 0.0
        self.token_s = 0.0
        self.until_s = 0.0  # when all that was sent will have been read
        self._last = ""  # the prompt sent last
        self._alone = ""  # the same, if nothing was being read when it was sent
        self._step_s = 0.0
        # Sums over first tokens: weights, lengths n, times t, and their products.
        self._w = self._n = self._t = self._nn = self._nt = 0.0

    def begin(self, name: str, tokens: float, now_s: float) -> None:
        """A prompt is sent, so many tokens of it to be read."""
        took_s = tokens * self.token_s
        self._last = name
        if self.until_s <= now_s:
            self._alone = name
            self.until_s = now_s + self.start_s + took_s
        else:
            self._alone = ""
            self.until_s += took_s

    def over(self, name: str) -> None:
        """A prompt has been read or will not be; those sent before it then have been too."""
        if name == self._last:
            self.until_s = 0.0

    def left_s(self, now_s: float) -> float:
        """How much longer the engine reads; 0 if it does not."""
        return max(0.0, self.until_s - now_s)

    def left_tokens(self, now_s: float) -> float:
        """The same, in tokens of a prompt."""
        return self.left_s(now_s) / self.token_s if self.token_s else 0.0

    def first_token(self, name: str, tokens: float, took_s: float, step_s: float) -> None:
        """The first token of a prompt came, so long after it was sent.

        `step_s` is the time between tokens there, 0 if it is not known. The shortest of late says
        where the line begins, which prompts that are short or all of a length cannot.
        """
        if step_s:
            self._step_s = min(step_s, RISE * self._step_s) if self._step_s else step_s
        late = took_s > self.start_s + tokens * self.token_s
        if not late or name == self._alone or not self.token_s:
            self._add(tokens, took_s, 1.0 if late else QUICK)
            self._draw(STEPS * self._step_s)
        self.over(name)

    def _add(self, n: float, t: float, weight: float) -> None:
        self._w = KEPT * self._w + weight
        self._n = KEPT * self._n + weight * n
        self._t = KEPT * self._t + weight * t
        self._nn = KEPT * self._nn + weight * n * n
        self._nt = KEPT * self._nt + weight * n * t

    def _draw(self, at_none_s: float) -> None:
        """The line with the least squares, one point more being known: at no tokens."""
        w, t = self._w + AT_NONE, self._t + AT_NONE * at_none_s
        spread = w * self._nn - self._n * self._n
        token_s = (w * self._nt - self._n * t) / spread if spread > 0.0 else 0.0
        if token_s > 0.0:  # else too little is known, and what was thought before is better
            start_s = (t - token_s * self._n) / w
            if start_s < 0.0:
                token_s, start_s = self._nt / self._nn, 0.0
            self.token_s, self.start_s = token_s, start_s
