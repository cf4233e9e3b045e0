"""How machinery behaves: step time, KV memory, checkpoint and boot cost."""
