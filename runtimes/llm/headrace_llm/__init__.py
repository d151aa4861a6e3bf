"""The LLM runtime: our own engine for text models of the architecture llama, behind an OpenAI-compatible server.

Importing the package imports nothing: torch takes seconds, and the server answers before them.
"""
