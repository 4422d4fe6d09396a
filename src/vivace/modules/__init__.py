"""Voices as PyTorch modules: what can be trained, pruned and quantized there. One file for each architecture."""
