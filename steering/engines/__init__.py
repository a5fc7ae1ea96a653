"""Engines: plans in the inference engines that pack requests. One file per engine."""
