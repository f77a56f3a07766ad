"""How good the playground's AI feedback is, form by form, and what it costs."""
