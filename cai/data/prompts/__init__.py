"""Prompts, human comparisons and ratings from sources: reading, de-duplication, splitting."""

from cai.data.prompts.comparisons import exclude_held_out as exclude_held_out
from cai.data.prompts.loading import PromptReport as PromptReport
from cai.data.prompts.loading import load_comparisons as load_comparisons
from cai.data.prompts.loading import load_prompts as load_prompts
from cai.data.prompts.readers import fingerprints as fingerprints
from cai.data.prompts.readers import reader_of as reader_of
from cai.data.prompts.transcripts import parse_transcript as parse_transcript
