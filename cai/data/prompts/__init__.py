"""Prompts, human comparisons and ratings from sources: reading, de-duplication, splitting."""

from cai.data.prompts.comparisons import exclude_held_out
from cai.data.prompts.loading import PromptReport, load_comparisons, load_prompts
from cai.data.prompts.readers import fingerprints, reader_of
from cai.data.prompts.transcripts import parse_transcript

__all__ = [
    "PromptReport",
    "exclude_held_out",
    "fingerprints",
    "load_comparisons",
    "load_prompts",
    "parse_transcript",
    "reader_of",
]
