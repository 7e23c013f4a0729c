"""Edits of the token stream: static, gated and fused prompts, and prototypes as their initial values."""
