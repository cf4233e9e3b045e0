"""The trial of the door beside its peers: what would make its figures wrong."""

import os
import sys

import pytest

from headgate.gateway.bench import doors


@pytest.mark.skipif(len(doors.CORES) < 2, reason="there is one core")
def test_each_program_has_a_core_of_its_own_whatever_core_the_trial_itself_runs_on(tmp_path):
    before = os.sched_getaffinity(0)
    try:
        doors.pin(1)
        cores = []
        for core in (0, 1):
            port = doors.free_port()
            command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
            with doors.running("some", command, port, core, tmp_path) as made:
                cores.append(os.sched_getaffinity(made.process.pid))
    finally:
        os.sched_setaffinity(0, before)
    assert cores == [{doors.CORES[0]}, {doors.CORES[1]}]
