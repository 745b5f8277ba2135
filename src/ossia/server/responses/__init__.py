"""OpenAI's Responses, stored responses and conversations."""
