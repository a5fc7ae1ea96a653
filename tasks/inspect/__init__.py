"""A model provider for Inspect: `inspect eval task.py --model trimtab/smollm2@cheerful@prod`."""
