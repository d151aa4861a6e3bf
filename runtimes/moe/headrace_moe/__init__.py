"""Mixture-of-experts models: their expert cache, its simulator, and the training of small models.

The layer itself is computed by `headrace_models`; what is here decides which experts are in memory.
"""
