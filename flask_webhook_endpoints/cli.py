"""`flask webhooks …`: what an operator runs."""
