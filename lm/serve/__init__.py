"""Floor 6, beside `experiment`: HTTP over the engine, in OpenAI's words. Nothing but HTTP."""
