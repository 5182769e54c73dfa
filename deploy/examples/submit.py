#!/usr/bin/env python3
"""Books by message: publishes commands to booking.submit and waits for each decision.

Shows what a service has to mind. Messages are persistent and their publishing is confirmed. The
message id is the idempotency key: whatever is not answered, because a connection broke or nobody
answered for a while, is published again with the same id, and is decided once all the same. The
reply queue is durable, so that answers survive a broken connection, and it expires when nobody
reads it.

Ends with a summary as JSON, and exit code 0 if every message got its decision.

    pip install -r requirements.txt
    AMQP_URL=amqp://desk:secret@localhost/%2f ./submit.py --commands 100
"""

import argparse
import datetime
import json
import os
import sys
import time
import uuid

import pika
from pika.exceptions import AMQPError

# Between two tries to connect.
RECONNECT_SECONDS = 0.5
# A reply queue that nobody reads is removed after so many milliseconds.
QUEUE_EXPIRES_MS = 3_600_000
# Answers are read after each so many publishes.
PUBLISHES_AT_ONCE = 50


class Message:
    """A command on its way; a duplicate has the key of another message and an id of its own."""

    def __init__(self, key, user, body):
        self.id = str(uuid.uuid4())
        self.key = key
        self.user = user
        self.body = body
        self.published = None  # when, on the connection in use
        self.accepted = False
        self.decision = None
        self.refusal = None

    @property
    def answered(self):
        return self.decision is not None or self.refusal is not None


def messages(args):
    """Half-hour bookings of some users' calendars, and some of them once more."""
    start = datetime.datetime.now(datetime.timezone.utc).replace(minute=0, second=0, microsecond=0)
    start += datetime.timedelta(days=args.days)
    users = [str(uuid.uuid4()) for _ in range(args.users)]
    made = []
    for number in range(args.commands):
        begin = start + datetime.timedelta(minutes=30 * (number // len(users)))
        user = users[number % len(users)]
        body = {
            "userId": user,
            "startTime": begin.isoformat(),
            "endTime": (begin + datetime.timedelta(minutes=30)).isoformat(),
            "metadata": {"number": number},
        }
        made.append(Message(str(uuid.uuid4()), user, json.dumps(body)))
    twice = args.commands * args.duplicates // 100
    made += [Message(first.key, first.user, first.body) for first in made[:twice]]
    return made


class Submitter:
    def __init__(self, args):
        self.parameters = pika.URLParameters(args.url)
        self.name = self.parameters.credentials.username
        # What a service may use begins with its name.
        self.queue = f"service.{self.name}.{args.queue}"
        self.messages = messages(args)
        self.by_id = {message.id: message for message in self.messages}
        self.resubmit_seconds = args.resubmit
        self.deadline = time.monotonic() + args.timeout
        self.publishes = self.connections = self.decided_first = 0

    def run(self):
        while self.open_messages() and time.monotonic() < self.deadline:
            try:
                self.work_on_a_connection()
            except AMQPError as error:
                print(f"the connection broke ({error!r}); trying again", file=sys.stderr)
                time.sleep(RECONNECT_SECONDS)

    def open_messages(self):
        return [message for message in self.messages if not message.answered]

    def work_on_a_connection(self):
        connection = pika.BlockingConnection(self.parameters)
        try:
            self.connections += 1
            channel = connection.channel()
            channel.confirm_delivery()
            arguments = {"x-expires": QUEUE_EXPIRES_MS}
            channel.queue_declare(self.queue, durable=True, arguments=arguments)
            channel.basic_consume(self.queue, self.hear)
            for message in self.messages:
                message.published = None
            while (waiting := self.open_messages()) and time.monotonic() < self.deadline:
                long_ago = time.monotonic() - self.resubmit_seconds
                due = [m for m in waiting if m.published is None or m.published < long_ago]
                for message in due[:PUBLISHES_AT_ONCE]:
                    self.publish(channel, message)
                connection.process_data_events(time_limit=0 if due else 0.1)
        finally:
            if connection.is_open:
                connection.close()

    def publish(self, channel, message):
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=pika.DeliveryMode.Persistent,
            type="booking.create",
            message_id=message.key,
            user_id=self.name,
            reply_to=self.queue,
            correlation_id=message.id,
            headers={"user-id": message.user},
        )
        # Returns when the broker has it on disk, and fails when no queue takes it.
        channel.basic_publish(
            "booking.submit", "booking.submit", message.body, properties, mandatory=True
        )
        message.published = time.monotonic()
        self.publishes += 1

    def hear(self, channel, delivery, properties, body):
        """An answer; each may come more than once."""
        message = self.by_id.get(properties.correlation_id)
        if message is not None:
            if properties.type == "command.accepted":
                message.accepted = True
            elif properties.type == "command.decided":
                self.decided_first += not message.accepted
                message.decision = json.loads(body)
            elif properties.type == "command.refused":
                message.refusal = json.loads(body)
        channel.basic_ack(delivery.delivery_tag)

    def summary(self):
        decisions = [m.decision for m in self.messages if m.decision is not None]
        by_key = {}
        for message in self.messages:
            if message.decision is not None:
                by_key.setdefault(message.key, set()).add(message.decision["commandId"])
        commands = {}
        for decision in decisions:
            commands[decision["commandId"]] = decision["status"]
        statuses = list(commands.values())
        return {
            "messages": len(self.messages),
            "accepted": sum(m.accepted for m in self.messages),
            "decided": len(decisions),
            "refused": sum(m.refusal is not None for m in self.messages),
            "unanswered": len(self.open_messages()),
            "decidedBeforeAccepted": self.decided_first,
            "commands": len(commands),
            "keysWithSeveralCommands": sum(len(ids) > 1 for ids in by_key.values()),
            "succeeded": statuses.count("succeeded"),
            "rejected": statuses.count("rejected"),
            "failed": statuses.count("failed"),
            "publishes": self.publishes,
            "connections": self.connections,
        }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default=os.environ.get("AMQP_URL"), help="default: $AMQP_URL")
    parser.add_argument("--queue", default="replies", help="end of the reply queue's name")
    parser.add_argument("--commands", type=int, default=10)
    parser.add_argument("--duplicates", type=int, default=10, help="percent sent twice")
    parser.add_argument("--users", type=int, default=10, help="calendars to book in")
    parser.add_argument("--days", type=int, default=30, help="how far ahead to book")
    parser.add_argument(
        "--resubmit", type=float, default=20, help="publish again after seconds without a decision"
    )
    parser.add_argument("--timeout", type=float, default=60, help="seconds in all")
    args = parser.parse_args()
    if not args.url:
        parser.error("set AMQP_URL, or give --url")
    submitter = Submitter(args)
    submitter.run()
    summary = submitter.summary()
    print(json.dumps(summary))
    return 0 if summary["decided"] == summary["messages"] else 1


if __name__ == "__main__":
    sys.exit(main())
