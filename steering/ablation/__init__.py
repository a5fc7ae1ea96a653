"""Ablation of units: operators, matched random sets, cumulative curves, verdicts on sets, off-target cost, and the test
for patching illusions."""
