"""Serves bundles over HTTP as OpenAI's speech interface does."""
