"""Plans in vLLM: what can act there, and the passes of its model runner. Nothing here imports vLLM."""
