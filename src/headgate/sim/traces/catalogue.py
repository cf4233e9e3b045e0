"""Every table of every trace that Headgate reads, by name."""

from headgate.sim.traces import clusters, openb, perf, requests, servegen
from headgate.sim.traces.tables import Table

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *servegen.TABLES,
        *requests.TABLES,
        *clusters.TABLES,
        *openb.TABLES,
        *perf.TABLES,
    )
}
