"""Prompts, human comparisons and ratings from sources: reading, de-duplication, splitting."""

from cai.prompts.comparisons import exclude_held_out
from cai.prompts.loading import PromptReport, load_comparisons, load_prompts
from cai.prompts.readers import fingerprints, reader_of
from cai.prompts.transcripts import parse_transcript

__all__ = [
    "PromptReport",
    "exclude_held_out",
    "fingerprints",
    "load_comparisons",
    "load_prompts",
    "parse_transcript",
    "reader_of",
]
