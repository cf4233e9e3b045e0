"""Tokens and money: what was used, by whom, at what price."""
