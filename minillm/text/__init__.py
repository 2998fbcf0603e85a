"""All that knows of text: prompts to token ids, tokens back to what people read."""
