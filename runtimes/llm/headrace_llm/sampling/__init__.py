"""How the next token of an answer is chosen: sampling parameters, log probabilities, constraints. numpy only."""
