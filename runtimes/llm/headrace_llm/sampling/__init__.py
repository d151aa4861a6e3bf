"""How the next token of an answer is chosen: sampling parameters, log probabilities, constraints; without torch."""
