"""What holds for one model: chat template, engines, trainings, memory; without its weights."""
