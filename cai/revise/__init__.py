"""The supervised stage's data: responses, critiques and revisions (paper, section 3.1)."""

from cai.revise.chains import VERSION, ChainInputs, Reviser, single_prompt

__all__ = ["VERSION", "ChainInputs", "Reviser", "single_prompt"]
