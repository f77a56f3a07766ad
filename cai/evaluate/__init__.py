"""Evaluation of models on held-out prompts: answers, graders, rates with intervals."""
