"""The rules that decide, by name: what a decision record carries and `explain` says."""

from headgate.kernels import layout as k

NAMES: dict[int, str] = {
    k.NOT_TRIED: "not-tried",
    k.FREE_CAPACITY: "free-capacity",
    k.RESERVED_NODES: "reserved-nodes",
    k.NO_ROOM: "no-room",
    k.CLASS_CAP: "class-cap",
    k.LENT_NOT_GIVEN: "lent-not-given",
    k.RECLAIM_GUARANTEE: "reclaim-guarantee",
    k.RECLAIM_ORDER: "reclaim-order",
    k.WAITS_FOR_RECLAIM: "waits-for-reclaim",
    k.HELD_FOR_LARGE_GANG: "held-for-large-gang",
    k.SURPLUS: "surplus",
    k.BEHIND_IN_LINE: "behind-in-line",
    k.NODE_LOST: "node-lost",
    k.PATIENCE_OVER: "patience-over",
    k.OWNER_CANCELLED: "owner-cancelled",
    k.TERM_OVER: "term-over",
}

# Why a work stands behind another in line is told from the two, not noted by the round.
STANDING = "standing"

MEANINGS: dict[str, str] = {
    "not-tried": "it was submitted and no round has looked at it yet",
    "free-capacity": "it started on accelerators that were free",
    "reserved-nodes": "it started on nodes that had been kept for it",
    "no-room": "no pool it may use has enough free accelerators on fitting nodes",
    "class-cap": "its class holds all it may hold in every pool the work may use",
    "lent-not-given": "it could never be taken back, and the room left is guaranteed to others",
    "reclaim-guarantee": "a class inside its guarantee took the accelerators back",
    "reclaim-order": "a class higher in the order took the accelerators",
    "waits-for-reclaim": "accelerators are being given back for it",
    "held-for-large-gang": "nodes are kept empty for it until enough are free",
    "surplus": "its service needs fewer replicas",
    "behind-in-line": "an equal work submitted before it waits for the same room",
    "standing": "a later work comes first: its tenant uses more of the product families",
    "node-lost": "a node it ran on failed",
    "patience-over": "it waited longer than its stated patience",
    "owner-cancelled": "its owner cancelled it",
    "term-over": "its term is over",
}

STATES = ("waiting", "starting", "running", "stopping", "done", "cancelled", "refused")
KINDS = ("gang", "replica", "batch", "lease")
