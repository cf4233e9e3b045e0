"""The choices, one file per question."""
