"""Parts of the bench of the node agent."""
