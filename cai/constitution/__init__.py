"""Constitutions: the principles that responses are criticised, revised and compared under."""

from cai.constitution.draw import draw as draw
from cai.constitution.draw import draw_several as draw_several
from cai.constitution.load import load_constitution as load_constitution
from cai.constitution.load import shipped_constitutions as shipped_constitutions
from cai.constitution.schema import Constitution as Constitution
from cai.constitution.schema import Principle as Principle
