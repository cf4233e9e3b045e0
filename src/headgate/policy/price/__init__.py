"""Perishable capacity: who should have it, and what one more unit of it is worth."""
