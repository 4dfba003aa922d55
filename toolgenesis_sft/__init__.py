"""Fine-tune Qwen3-8B to write MCP servers, and measure what the result is worth."""

__version__ = "0.1.0"
