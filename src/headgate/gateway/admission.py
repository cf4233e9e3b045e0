"""The way in: whose request it is, what it asks for, and whether its limits have room for it."""

import hmac
from typing import TYPE_CHECKING, Final

import msgspec

from headgate.gateway import config as settings
from headgate.gateway.asks import BYTES_PER_TOKEN, output_max, read_ask
from headgate.gateway.bodies import Ask
from headgate.gateway.dispatch import ModelRun
from headgate.gateway.errors import Problem
from headgate.gateway.exchange import Exchange
from headgate.gateway.front import Head
from headgate.gateway.lanes import Lane
from headgate.gateway.wheel import monotonic
from headgate.ledger.accounts import Account, Tenant
from headgate.ledger.prices import price_nano
from headgate.ledger.reservation import Reservation
from headgate.policy import fairness

if TYPE_CHECKING:
    from headgate.gateway.door import Door

INFERENCE: Final = frozenset(
    (
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/embeddings",
        b"/v1/responses",
    )
)
LANES_MAX: Final = 20_000
LEASE_WITHIN_S: Final = 10.0  # a slice of a limit comes within milliseconds, or the store is away
INTERNAL: Final = b"x-headgate-internal"


class Admission:
    """Finds a request's account and lane, reserves its limits, hands it to the dispatcher."""

    def __init__(self, door: "Door") -> None:
        self.door = door
        self._batch_accounts: dict[tuple[str, str], tuple[Tenant, Account]] = {}

    def key(self, exchange: Exchange) -> str:
        """The key that was presented; 401 if none was."""
        given = exchange.headers.get(b"authorization", b"")
        scheme, _, key = given.partition(b" ")
        if scheme.lower() == b"bearer" and key:
            return key.strip().decode("latin-1")
        raise Problem(
            401,
            "missing_api_key",
            "No API key was given; send it as `Authorization: Bearer KEY`.",
        )

    def admit(self, exchange: Exchange, head: Head | None = None) -> None:
        """Find the account; on to `_enter`, perhaps later."""
        if INTERNAL in exchange.headers:
            self._enter(exchange, self.internal(exchange))
            return
        key = self.key(exchange)
        account = self.door.accounts.lookup(key)
        if account is None:
            self.door.spawn(self._find(exchange, key))
            return
        if head is not None:
            head.account, head.changes = account, self.door.accounts.changes
            head.lanes = {}
        self._enter(exchange, account)

    async def _find(self, exchange: Exchange, key: str) -> None:
        try:
            account = await self.door.accounts.find(key)
        except Exception as error:
            self.door.log("accounts_away", error=type(error).__name__)
            exchange.refuse(
                Problem(503, "accounts_away", "Keys cannot be looked up now.", retry_after_s=2.0)
            )
            return
        if exchange.front is None:
            return
        try:
            if account is None:
                self.door.metrics.unknown_keys += 1
                raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")
            self._enter(exchange, account)
        except Problem as problem:
            exchange.refuse(problem)

    def internal(self, exchange: Exchange) -> Account:
        """The account that a batch line runs for; our own batch process says so."""
        headers = exchange.headers
        if not self.door.secret or not hmac.compare_digest(
            headers.get(INTERNAL, b""), self.door.secret
        ):
            raise Problem(401, "invalid_api_key", "The API key is not known or was revoked.")
        tenant = headers.get(b"x-headgate-tenant", b"").decode("latin-1")
        key = headers.get(b"x-headgate-key", b"").decode("latin-1")
        exchange.order = headers.get(b"x-headgate-order", b"").decode("latin-1")
        known = self.door.accounts.tenant(tenant) or self.door.tenants.get(tenant)
        if known is None:
            known = Tenant(tenant, class_=self.door.config.classes[-1].name)
        held = self._batch_accounts.get((tenant, key))
        if held is None or held[0] is not known:
            # A batch does not use up its tenant's requests and tokens a minute; budgets hold.
            unlimited = msgspec.structs.replace(known, limits={})
            held = self._batch_accounts[tenant, key] = (known, Account(key, unlimited))
        return held[1]

    def _enter(self, exchange: Exchange, account: Account) -> None:
        if exchange.path not in INFERENCE:
            self.door.pages.show(exchange, account)
        else:
            self.ask(exchange, account, None)

    def ask(self, exchange: Exchange, account: Account, known: dict[str, Lane] | None) -> None:
        """Read what is asked for; on to the tenant's limits. `known` lanes need no other look."""
        if self.door.meter.full:
            raise Problem(503, "usage_disk_full", "Usage cannot be recorded now.", retry_after_s=5)
        exchange.account = account
        ask = exchange.ask = read_ask(exchange.body)
        if ask.service_tier is not None:
            known = None
        lane = known.get(ask.model) if known is not None else None
        if lane is None:
            batch = bool(exchange.order)
            lane = self.door.lanes.get(
                (account.key, ask.model, exchange.path, ask.service_tier, batch)
            )
            if lane is None or lane.account is not account:
                lane = self.lane(account, ask, exchange.path, batch)
            if known is not None:
                known[ask.model] = lane
        exchange.lane = lane
        exchange.est_input = len(exchange.body) // BYTES_PER_TOKEN
        most = output_max(ask)
        if exchange.path == b"/v1/embeddings":
            most = 0
        exchange.est_output = lane.model.terms.output_tokens_guess if most is None else most
        # A request that nothing was fetched for has only just begun.
        now_s = exchange.began_s if known is not None else monotonic()
        if self._try_reserve(exchange, now_s):
            self.door.dispatcher.offer(exchange, now_s)
        else:
            self.door.spawn(self._lease(exchange))

    def _try_reserve(self, exchange: Exchange, now_s: float) -> bool:
        """Take the request off its tenant's limits; False if they have to be asked for more."""
        lane = exchange.lane
        fed, made = exchange.est_input, exchange.est_output
        account = lane.account
        price = price_nano(lane.tariff, fed, 0, made) if account.tenant.budgets else 0
        held = self.door.limits.reserve(account, lane.model.name, fed + made, now_s, made, price)
        if held is None:
            return False
        if not isinstance(held, Reservation):
            raise Problem(429, held.code, held.message, retry_after_s=held.retry_after_s)
        exchange.reservation = held
        if held.reserved and lane.reserved is not None:
            exchange.lane = lane.reserved
        return True

    async def _lease(self, exchange: Exchange) -> None:
        lane = exchange.lane
        try:
            until_s = monotonic() + LEASE_WITHIN_S
            while True:
                await self.door.limits.lease(lane.account, lane.model.name)
                if exchange.front is None:  # it left, and has its record
                    return
                if self._try_reserve(exchange, monotonic()):
                    break
                if monotonic() > until_s:
                    said = "The limits cannot be asked now."
                    raise Problem(503, "limits_away", said, retry_after_s=1.0)
        except Problem as problem:
            exchange.refuse(problem)
            return
        if self.door.dispatcher.renewed(exchange):
            self.door.dispatcher.offer(exchange, monotonic())

    def lane(self, account: Account, ask: Ask, path: bytes, batch: bool) -> Lane:
        """Work out a lane and keep it; Problem if the account may not go this way."""
        model = self.door.dispatcher.models.get(ask.model)
        tenant = account.tenant
        if model is None or (tenant.models and ask.model not in tenant.models):
            raise Problem(
                404,
                "model_not_found",
                f"The model `{ask.model}` does not exist or you do not have access to it.",
                "model",
            )
        tier = "batch" if batch else self._tier(tenant, ask.service_tier)
        if tenant.class_ not in self.door.class_rank:
            raise Problem(
                403, "unknown_class", f"The tenant's class {tenant.class_!r} is not in the config."
            )
        lane = self._new_lane(account, model, path, tier)
        if tier == "default":
            lane.reserved = self._new_lane(account, model, path, "reserved")
        if len(self.door.lanes) >= LANES_MAX:
            self.door.lanes.clear()
        self.door.lanes[account.key, ask.model, path, ask.service_tier, batch] = lane
        return lane

    def _tier(self, tenant: Tenant, asked: str | None) -> str:
        tier = tenant.default_tier if asked in (None, "auto") else asked
        if tier not in ("default", "flex", "priority"):
            raise Problem(
                400,
                "invalid_value",
                f"service_tier is {asked!r}; it may be auto, default, flex or priority.",
                "service_tier",
            )
        if tier not in tenant.tiers:
            raise Problem(
                400,
                "tier_not_offered",
                f"service_tier {tier!r} is not offered to this tenant; "
                f"it has {', '.join(tenant.tiers)}.",
                "service_tier",
            )
        return tier

    def _new_lane(self, account: Account, model: ModelRun, path: bytes, tier: str) -> Lane:
        class_ = self.door.classes[account.tenant.class_]
        terms = self.door.config.terms(tier)
        return Lane(
            account,
            model,
            path,
            tier,
            fairness.level(self.door.class_rank[class_.name], len(self.door.classes), tier),
            class_.patience_s if terms.patience_s is None else terms.patience_s,
            settings.tariff(self.door.config, model.terms, tier),
            self.door.metrics.of(model.name, class_.name, tier),
            0.0 if tier in ("flex", "batch") else (class_.ttft_ms or 0.0) / 1000.0,
        )
