"""Constitutions: the principles that responses are criticised, revised and compared under."""

from cai.constitution.draw import draw, draw_several
from cai.constitution.load import load_constitution, shipped_constitutions
from cai.constitution.schema import Constitution, Principle

__all__ = [
    "Constitution",
    "Principle",
    "draw",
    "draw_several",
    "load_constitution",
    "shipped_constitutions",
]
