"""Front ends: text to sentences to tokens."""
