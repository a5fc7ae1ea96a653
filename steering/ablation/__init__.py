"""Ablation that convinces: operators, units, matched random sets, curves, verdicts, off-target cost, illusions."""
