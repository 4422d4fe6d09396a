"""Listening tests with people: who hears what, what they said, and what it means."""
