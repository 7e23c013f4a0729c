"""What edits a token stream: static, gated and fused prompts, and the prototypes they may start from."""
