"""Run in a box: ask /healthz on a new connection, again and again, and keep each answer: prober.py URL FILE.

A line of JSON for each: `at` (monotonic), `took_s`, and `status`, or `error` where there was no answer. What the
worker answers and what the nanny answers in its stead are both answers; a refused connection is none.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request

PAUSE_S = 0.03
TIMEOUT_S = 20.0

url, path = sys.argv[1:]
with open(path, "w", buffering=1, encoding="ascii") as kept:
    while True:
        began = time.monotonic()
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer:
                told: dict[str, object] = {"status": answer.status}
        except urllib.error.HTTPError as answer:
            told = {"status": answer.code}
        except OSError as error:
            told = {"error": repr(error)}
        kept.write(json.dumps({"at": began, "took_s": time.monotonic() - began, **told}) + "\n")
        time.sleep(PAUSE_S)
