"""Makes text-to-speech models small and fast, proves that the voice was not harmed, and serves them."""

__version__ = "0.1.0"
