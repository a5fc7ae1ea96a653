"""Conditions: gates and controllers fitted on prompts labelled by whether a plan is wanted, and the measurement of
their effect."""
