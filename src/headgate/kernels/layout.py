"""What the round's tables look like in memory, and the codes that stand in them.

One row of `WORK` is a work, of `LANE` a waiting line, of `NODE` a server, of `GPU` an accelerator
and of `POOL` a pool. The plain arrays beside them:

- `hist[p, f]`: nodes of pool p that are up, not reserved, and have f accelerators free;
  `domain_hist[d, f]`: those of domain d. The domains of a pool follow each other, and so do the
  nodes of a domain; a pool without domains is one.
- `shapes[s, p, GPUS]`: accelerators a work of shape s takes in pool p (0: it cannot run there);
  `shapes[s, i, PREFERENCE]`: the i-th pool to try, or -1; `shapes[s, p, WITHIN]`: 1 where it must
  lie within one domain of pool p.
- `claims[c, p, HELD | FIRM | CAP | GUARANTEE | COMING]`: what class c holds in pool p, how much of
  that cannot be taken back, the most it may hold, what it is guaranteed, and what its claimants
  will hold there once their nodes are free. The last row is for
  filling work, which counts against no class.
- `may_reclaim[a, b]`: whether level a may take accelerators from level b.
- `exposed[l, p]`: accelerators that reclaimable work of level l holds in pool p.
- `ready[v, m, p]`: running replicas of service v in mode m (0 online, 1 batch) in pool p.
- `tally[c, d, s, p]`: accelerators that works of class c and kind d hold in state s in pool p.
"""

import numpy as np

# Kinds of work.
GANG, REPLICA, BATCH, LEASE = range(4)

# States of a work; the legal moves stand in core/lifecycle.
WAITING, STARTING, RUNNING, STOPPING, DONE, CANCELLED, REFUSED = range(7)

# States of a node.
ABSENT, UP, DOWN = range(3)

# What a turn is about: the codes of the facts that the round learns.
(
    TIME_PASSED,
    NODE_UP,
    NODE_DOWN,
    WORK_SUBMITTED,
    WORK_STARTED,
    WORK_FINISHED,
    WORK_STOPPED,
    WORK_CANCELLED,
    WORK_REFUSED,
    STOP_WANTED,
) = range(10)

# Wishes the round writes: (wish, work, pool, rule, by).
START, STOP = range(2)

# Rules, by which a decision is explained; core/rules names them.
(
    NOT_TRIED,
    FREE_CAPACITY,
    RESERVED_NODES,
    NO_ROOM,
    CLASS_CAP,
    LENT_NOT_GIVEN,
    RECLAIM_GUARANTEE,
    RECLAIM_ORDER,
    WAITS_FOR_RECLAIM,
    HELD_FOR_LARGE_GANG,
    SURPLUS,
    BEHIND_IN_LINE,
    NODE_LOST,
    PATIENCE_OVER,
    OWNER_CANCELLED,
    TERM_OVER,
) = range(16)

# Columns of `shapes` and `claims`.
GPUS, PREFERENCE, WITHIN = range(3)
HELD, FIRM, CAP, GUARANTEE, COMING = range(5)

# Places in `meta`, the round's few scalars.
STAMP, DIRTY, N_LANES, N_WISHES, BROKEN, FILL_CLAIM, CLAIMANTS, PASS = range(8)
META_SIZE = 8

# Places in `flags`, what a policy says once.
USE_LEVELS, USE_GUARANTEES, LEAST_LOSS, CHEAPEST_POOL, RESERVE_AFTER_S = range(5)
FLAGS_SIZE = 6

# Values of `meta[DIRTY]`: nothing new, some lanes have a new head, capacity or rules changed.
CLEAN, FRESH_HEADS, ALL_LANES = range(3)

# Values of `meta[BROKEN]`: which law broke.
HOLDS, ILLEGAL_MOVE, GANG_PARTIAL, POOL_SUM, NEGATIVE = range(5)

WORK = np.dtype(
    [
        ("kind", np.int8),
        ("state", np.int8),
        ("leaving", np.int8),  # 1: when it stops it is gone, not waiting again
        ("firm", np.int8),  # 1: cannot be reclaimed while it runs
        ("priority", np.int8),
        ("mode", np.int8),  # of a replica: 0 online, 1 batch
        ("rule", np.int8),  # what decided about it last
        ("place", np.int8),  # in the plan of prices, if the policy has one
        ("use", np.int32),  # its row among the uses that prices see; -1: a replica
        ("class_", np.int16),
        ("claim", np.int16),  # row of `claims` its accelerators count in
        ("level", np.int16),
        ("pool", np.int16),
        ("tenant", np.int32),
        ("service", np.int32),
        ("shape", np.int32),
        ("lane", np.int32),
        ("behind", np.int32),  # the next work in its waiting line, or among the claimants
        ("claiming", np.int8),  # 1: nodes are reserved for it; it waits among the claimants
        ("gpus", np.int32),
        ("head", np.int32),  # its first accelerator; the others follow by GPU.next
        ("reserved", np.int32),  # nodes reserved for it
        ("reserved_pool", np.int16),
        ("reserved_node", np.int32),  # the last one reserved; the only one of a small work
        ("mark", np.int64),  # scratch of the search for victims
        ("starts", np.int32),
        ("evictions", np.int32),
        ("by", np.int32),  # the work that took its accelerators last
        ("ref", np.int64),  # the submitter's own number for it
        ("key", np.float64),  # order inside its level, smallest first
        ("bid", np.float64),  # worth of one GPU-second of it
        ("submitted_s", np.float64),
        ("since_s", np.float64),  # when it entered its state
        ("running_s", np.float64),  # when it last began to run
        ("held_from_s", np.float64),
        ("deadline_s", np.float64),
        ("patience_s", np.float64),
        ("checkpoint_s", np.float64),  # time between checkpoints; 0: nothing to lose
        ("restart_s", np.float64),  # what starting again costs
        ("waited_s", np.float64),
        ("starting_gpu_s", np.float64),
        ("running_gpu_s", np.float64),
        ("stopping_gpu_s", np.float64),
        ("lost_gpu_s", np.float64),  # of the running ones: work done and lost again
    ],
    align=True,
)

LANE = np.dtype(
    [
        ("level", np.int16),
        ("class_", np.int16),
        ("claim", np.int16),
        ("firm", np.int8),
        ("shape", np.int32),
        ("head", np.int32),
        ("tail", np.int32),
        ("count", np.int32),
        ("fresh", np.int8),  # 1: its head is new since the last round
        ("closed", np.int64),  # the stamp of the round in which its head failed
        ("searched_s", np.float64),  # when a search for victims last failed
    ],
    align=True,
)

NODE = np.dtype(
    [
        ("pool", np.int16),
        ("size", np.int16),
        ("domain", np.int32),
        ("free", np.int16),
        ("state", np.int8),
        ("reserved", np.int32),  # work row, or -1
        ("first", np.int32),  # its first accelerator
        ("cost", np.float64),  # scratch of the search for victims
    ],
    align=True,
)

GPU = np.dtype([("owner", np.int32), ("next", np.int32), ("node", np.int32)], align=True)

POOL = np.dtype(
    [
        ("first_node", np.int32),
        ("nodes", np.int32),
        ("first_domain", np.int32),
        ("domains", np.int32),
        ("domain_nodes", np.int32),  # of each domain but the last, which may have fewer
        ("reserved_by", np.int32),  # the gang that nodes are kept empty for, or -1
        ("searched_s", np.float64),  # when that gang's search for victims last failed
        ("asked", np.int64),  # the last pass in which another would have had nodes kept
        ("up", np.int64),  # accelerators on nodes that are up
        ("down", np.int64),
        ("free", np.int64),  # of those up
        ("reserved_free", np.int64),  # of those free, on reserved nodes
        ("held", np.int64),
        ("stopping", np.int64),  # of those held
        ("at_s", np.float64),
        ("live_gpu_s", np.float64),
        ("down_gpu_s", np.float64),  # on failed nodes, less what works still hold there
        ("free_gpu_s", np.float64),
        ("reserved_gpu_s", np.float64),
    ],
    align=True,
)

WISH = np.dtype(
    [
        ("wish", np.int32),
        ("work", np.int32),
        ("pool", np.int32),
        ("rule", np.int32),
        ("by", np.int32),
    ],
    align=True,
)
