"""The expert cache: which experts are in memory, decided by one code for the live cache and for the simulator."""
