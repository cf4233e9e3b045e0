"""The life of a work as a table: state and fact, and the state that follows.

The compiled round moves works by the same table; a test walks every cell of both. An absent cell
is a move that must not happen: it breaks a law.
"""

from headgate.kernels.layout import (
    CANCELLED,
    DONE,
    REFUSED,
    RUNNING,
    STARTING,
    STOPPING,
    WAITING,
    WORK_CANCELLED,
    WORK_FINISHED,
    WORK_REFUSED,
    WORK_STARTED,
    WORK_STOPPED,
)

# A stop of a work that is leaving ends it: CANCELLED in place of WAITING.
AFTER: dict[tuple[int, int], int] = {
    (STARTING, WORK_STARTED): RUNNING,
    (STOPPING, WORK_STARTED): STOPPING,  # the stop crossed the start on the way
    (RUNNING, WORK_FINISHED): DONE,
    (STOPPING, WORK_FINISHED): DONE,
    (STARTING, WORK_STOPPED): WAITING,
    (RUNNING, WORK_STOPPED): WAITING,
    (STOPPING, WORK_STOPPED): WAITING,
    (WAITING, WORK_CANCELLED): CANCELLED,
    (STARTING, WORK_CANCELLED): STOPPING,
    (RUNNING, WORK_CANCELLED): STOPPING,
    (STOPPING, WORK_CANCELLED): STOPPING,
    (WAITING, WORK_REFUSED): REFUSED,
    (STARTING, WORK_REFUSED): STOPPING,
    (RUNNING, WORK_REFUSED): STOPPING,
    (STOPPING, WORK_REFUSED): STOPPING,
}

ENDED = (DONE, CANCELLED, REFUSED)
HOLDS = (STARTING, RUNNING, STOPPING)
