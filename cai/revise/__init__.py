"""The supervised stage's data: responses, critiques and revisions (paper, section 3.1)."""

from cai.revise.chains import VERSION, Reviser, single_prompt

__all__ = ["VERSION", "Reviser", "single_prompt"]
