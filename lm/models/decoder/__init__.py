"""Decoder-only Transformers: GPT-2, Llama, Gemma and their kin."""
