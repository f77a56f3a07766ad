"""A run's page, served on this machine only, with a constitution to try and edit."""
