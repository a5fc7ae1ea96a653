"""Cron texts, checked before anything is sent to a server."""

from prefect.client.schemas.schedules import CronSchedule
from pydantic import ValidationError

from trimtab.tasks.errors import RecipeError


def check_cron(text: str) -> None:
    """Raises RecipeError when `text` is no cron schedule."""
    try:
        CronSchedule(cron=text)
    except (ValidationError, ValueError):
        raise RecipeError(f"--cron {text!r}: not a cron schedule; five fields, for example '0 3 * * *'") from None
