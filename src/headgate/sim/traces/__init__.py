"""Public traces: where each comes from, how to read it, and what to do where it is damaged."""
