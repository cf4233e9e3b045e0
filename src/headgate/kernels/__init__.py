"""Compiled loops over primitive arrays; imports nothing of ours."""
