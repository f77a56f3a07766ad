"""Many responses of a policy to each prompt, scored: what is chosen from them trains the next."""
