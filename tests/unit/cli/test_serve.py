"""What `headgate serve` says before it serves."""

from importlib import util

import pytest
from click.testing import CliRunner

from headgate.cli import serve as module
from headgate.core.errors import InputError


@pytest.mark.parametrize("command", [module.serve, module.emulate])
@pytest.mark.parametrize("name", ["httptools", "uvloop", "starlette"])
def test_a_missing_part_is_a_sentence_that_says_how_to_get_it(monkeypatch, command, name):
    found = util.find_spec
    monkeypatch.setattr(module, "find_spec", lambda n: None if n == name else found(n))
    refused = CliRunner().invoke(command, []).exception
    assert isinstance(refused, InputError)
    assert str(refused).startswith(f"{name} is missing")
    assert "headgate[gateway]" in str(refused)
