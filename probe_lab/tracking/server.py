"""Whether a tracking server answers, asked in seconds and without MLflow."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from http.client import HTTPException

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
