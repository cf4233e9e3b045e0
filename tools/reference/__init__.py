"""The pages of docs/reference written from the code: `uv run python -m tools.reference`."""
