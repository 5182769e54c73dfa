#!/usr/bin/env python3
"""Receives the webhooks of booking: verifies each, and prints its event as a line of JSON.

    receive.py --secret whsec_... [--port 8080]

The secret is the one that the answer to POST /api/webhooks showed once. What is not signed with
it, or is older than five minutes, is answered 401. An event may come more than once: it is known
by its id, and printed once. 204 is answered only when it has been printed, because what was
answered is not sent again.
"""

import argparse
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1024 * 1024


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps the connection for the next event
    timeout = 60
    webhook: Webhook
    seen: set[str] = set()
    lock = Lock()

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        if length > MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)
        try:
            event = self.webhook.verify(body, {k.lower(): v for k, v in self.headers.items()})
        except WebhookVerificationError:
            return self.answer(401)
        with self.lock:
            if event["id"] not in self.seen:
                print(json.dumps(event), flush=True)
                self.seen.add(event["id"])
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_) -> None:
        """Only events are printed."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Receives the webhooks of booking.")
    parser.add_argument("--secret", required=True, help="whsec_..., shown when it was registered")
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one (default: 8080)")
    options = parser.parse_args()
    Receiver.webhook = Webhook(options.secret)
    server = ThreadingHTTPServer(("127.0.0.1", options.port), Receiver)
    print(f"listening on http://127.0.0.1:{server.server_port}/", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
