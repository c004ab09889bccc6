"""An app that works while it leads: its sidecar says so, and every request to a resource carries the token."""

import json
import time
import urllib.error
import urllib.request

SIDECAR = "http://127.0.0.1:7422"


def leadership():
    """The fencing token while this app leads, else None."""
    try:
        with urllib.request.urlopen(f"{SIDECAR}/leader", timeout=1) as answer:
            return json.load(answer)["token"]
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        # 503, or no sidecar: without a proof the app does not lead.
        return None


def main():
    said = object()
    while True:
        token = leadership()
        if token != said:
            print(f"I lead, with token {token}" if token else "I do not lead", flush=True)
            said = token
        time.sleep(0.2)


if __name__ == "__main__":
    main()
