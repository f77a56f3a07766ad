"""What a person does with a constitution beside a run: try it, test it, diff it, ask why."""
