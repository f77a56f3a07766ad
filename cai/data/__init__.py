"""The data of all stages: messages, rows, how they are kept, and where prompts come from."""
