"""The environment that the processes of a distributed training find each other by."""

import os
import re

# Variables that every process needs, and the pattern of their values.
VARIABLES = {
    "DMLC_ROLE": "scheduler|server|worker",
    "DMLC_PS_ROOT_URI": ".+",
    **dict.fromkeys(("DMLC_PS_ROOT_PORT", "DMLC_NUM_SERVER", "DMLC_NUM_WORKER"), "[1-9][0-9]*"),
}


def find_problem():
    """Return a line about the variable that is missing or wrong, with which MXNet would hang."""
    for name, pattern in VARIABLES.items():
        value = os.environ.get(name)
        if not re.fullmatch(pattern, value or ""):
            return (
                f"the environment variable {name} is {value or 'not set'}: "
                "the README, Several machines, says what it must be"
            )
    return None
