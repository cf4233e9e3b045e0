# Everything done often is one command here; continuous integration runs the same ones.

# Format, then check everything that a change must pass.
default: format check test

format:
    uv run ruff format .
    uv run ruff check --fix .

# Lint, types and import contracts.
check:
    uv run ruff format --check .
    uv run ruff check .
    uv run mypy
    uv run lint-imports

# The whole test suite.
test *ARGS:
    uv run pytest {{ARGS}}

# What a developer runs between edits.
quick *ARGS:
    uv run pytest -m "not slow and not engine" -q {{ARGS}}

# The pages that are written from the code, and what the tutorial's commands print.
reference:
    uv run python tools/traces_page.py
    uv run python -m tools.reference
    uv run python tools/examples.py
