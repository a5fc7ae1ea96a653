"""Studies: every behaviour by every method at every budget, judged alike, and the table of their verdicts."""
