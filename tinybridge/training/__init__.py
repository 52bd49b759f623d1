"""Learning a prompt: pairs, the loop, and what a stopped run leaves."""
