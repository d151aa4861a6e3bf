"""The LLM runtime: our own engine for Llama-family text models, behind an OpenAI-compatible server.

Importing the package imports nothing: torch takes seconds, and the server answers before them.
"""
