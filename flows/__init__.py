"""Flows: ordered task calls. Importing the tasks first switches telemetry off before Prefect is imported."""

import trimtab.tasks  # noqa: F401
