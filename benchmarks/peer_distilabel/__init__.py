"""Critique and revision through cai and through distilabel."""
