"""Requests one by one: workloads, replicas that serve them, and what they saw."""
