"""What a model does on held-out prompts: answers, graders, rates with intervals."""
