"""The plugin that vLLM loads: requests name plans of the catalog, and its passes are steered by them."""
