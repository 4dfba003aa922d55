"""From chat samples to a trained, exported model.

chat, tokenizer, tokens, packing, schedule, shape, memory and plan work without torch; loop,
checkpoint, export and launch build on them.
"""
