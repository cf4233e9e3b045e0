"""Replicas with continuous batching, simulated exactly without walking their iterations."""
