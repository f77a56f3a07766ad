"""A tiny world with a ground truth, and the tiny model that was trained on it.

The whole method runs here on a CPU in minutes. `world` holds tasks and texts, `documents` what the
model was pretrained on, `sources` the prompts and comparisons that the pipeline reads, and `grader`
the ground truth, which nothing that trains may import.
"""
