"""The trainings on rows: SFT, preference model and harmfulness model, by one `fit`."""
