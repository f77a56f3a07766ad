"""Constitutional AI: from a YAML constitution to a harmless, helpful model."""

__version__ = "0.1.0"
