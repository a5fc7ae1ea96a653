"""Tasks: where models and stores meet. Before any library is imported: nothing is told to anybody outside."""

import os

PRIVATE = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",  # of exceptions, which Prefect stores: by default as pickles
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

for _name, _value in PRIVATE.items():
    os.environ.setdefault(_name, _value)  # child processes read it too: a Prefect server, workers
