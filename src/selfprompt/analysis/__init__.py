"""Looking at what prompts have learned."""
