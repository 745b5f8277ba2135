"""OpenAI's legacy Completions."""
