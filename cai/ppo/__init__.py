"""Proximal policy optimisation for language models, against a preference model (docs/ppo.md)."""
