"""A tracking server without MLflow: whether it answers, asked in seconds, and where people see its runs."""

from __future__ import annotations

import shlex
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from urllib.parse import quote, urlsplit

ANSWERS_WITHIN = 3.0
"""Seconds after which a server that says nothing is taken for one that is not there."""


def trouble(uri: str) -> str:
    """Why nothing can be logged at an address, in a few words; empty when it answers, or is no web address.

    Any answer below 500 counts, also the one that asks who we are. The certificate is MLflow's business.
    """
    if not is_web(uri):
        return ""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWERS_WITHIN, context=context):
            return ""
    except urllib.error.HTTPError as error:
        return f"it answers {error.code} {error.reason}" if error.code >= 500 else ""
    except urllib.error.URLError as error:
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, ValueError, HTTPException) as error:
        return str(error) or type(error).__name__


def is_web(uri: str) -> bool:
    """Whether an address is that of a server."""
    return uri.startswith(("http://", "https://"))


def answers(uri: str) -> bool:
    """Whether there is no trouble."""
    return not trouble(uri)


def place_of(uri: str, experiment: str, parent: str) -> str:
    """How to look at the runs below ``parent``: an address, or for a file the command that serves it. Empty where it
    would show a password, or only the platform of a vendor knows it."""
    if is_web(uri):
        parts = urlsplit(uri)
        host = parts.netloc.rpartition("@")[2]
        wanted = quote(f"tags.`mlflow.parentRunId` = '{parent}'", safe="")
        path = parts.path.rstrip("/")
        return f"{parts.scheme}://{host}{path}/#/experiments/{quote(experiment)}/runs?searchFilter={wanted}"
    if "@" in uri or uri.startswith("databricks"):
        return ""
    return f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
