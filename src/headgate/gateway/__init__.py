"""The OpenAI-compatible door: requests in by class and tenant, out to engines, billed by token."""
