"""Prompts and human comparisons from files and the hub: reading, de-duplication, splitting."""

from cai.prompts.comparisons import exclude_held_out, load_comparisons
from cai.prompts.loading import PromptReport, load_prompts
from cai.prompts.sources import source_fingerprint
from cai.prompts.transcripts import parse_transcript

__all__ = [
    "PromptReport",
    "exclude_held_out",
    "load_comparisons",
    "load_prompts",
    "parse_transcript",
    "source_fingerprint",
]
