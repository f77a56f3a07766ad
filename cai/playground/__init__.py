"""A tiny world with a ground truth, and a tiny model that was trained on it.

The whole method runs here on a CPU in minutes. `world` has the tasks and texts, `documents` the
texts of pretraining, `sources` the prompts and comparisons that the pipeline reads, and `grader`
the ground truth, which training must not import.
"""
