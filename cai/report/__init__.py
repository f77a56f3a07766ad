"""The page of a run or of two runs, its numbers as JSON, and tables for a terminal."""
