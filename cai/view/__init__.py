"""A run's page, served to its owner alone, with a constitution to try and edit beside it."""
