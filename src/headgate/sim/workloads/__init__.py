"""Demand made from traces (`replayed`) or from published figures alone (every other module).

One seed gives one demand: each service, batch or stream throws its own named dice.
"""
