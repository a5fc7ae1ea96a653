"""Conditions: gates and controllers made from prompts that say where a plan is wanted, and what they then achieve."""
