"""One road for every voice: add, step, events."""
