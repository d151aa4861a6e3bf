"""Training of small mixture-of-experts models from text: corpus, recipe, model, loop, export."""
