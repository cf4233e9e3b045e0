"""Demand made from traces (`replayed`) or from published figures alone (`generated`)."""
