"""Serving: joins the catalog and the engines behind an OpenAI-compatible HTTP interface."""
