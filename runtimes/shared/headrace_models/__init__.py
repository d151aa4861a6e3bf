"""What the model runtimes share: model files, tokenizers, decoders.

Below `headrace_llm`, `headrace_moe` and `headrace_diffusion`; it imports the core (`headrace`) and none of them.
"""
