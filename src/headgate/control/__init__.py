"""The one machine that both worlds run."""
