"""Analysis of what prompts have learned."""
