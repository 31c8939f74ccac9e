#!/usr/bin/python3
"""Produces orders as JSON, keyed by customer, and prints a receipt for each."""

import argparse
import json
import os
import queue
import sys
import threading

import grpc

from cluster import Cluster, PenstockError, explain
from producing import Producer
from serializer import JsonSerializer


class Receipts:
    """Prints one line a record in the order of sending, as soon as all before it are known."""

    def __init__(self, quiet):
        self.known, self.next, self.failed, self.quiet = {}, 0, 0, quiet

    def done(self, token, receipt, error):
        if error is not None:
            self.failed += 1
            self.known[token] = {"error": error.code, "definite": error.definite}
        else:
            offset, r = receipt
            self.known[token] = {
                "partition": r.partition, "offset": offset, "leader_epoch": r.leader_epoch, "append_time": r.append_time_ms,
                "isr": r.isr, "acked": r.acked, "fsynced": r.fsynced, "duplicate": r.duplicate,
            }
        while self.next in self.known:
            line = self.known.pop(self.next)
            if not self.quiet:
                print(json.dumps(line), flush=True)
            self.next += 1


def orders(count):
    for n in range(count):
        yield {"order": n, "customer": f"customer-{n % 17:02d}", "amount": round(9.99 + n % 50, 2), "note": "grüße"}


def lines(stream, producer):
    """The objects of a stream, one a line. What was taken goes out while the next line is waited for."""
    taken = queue.Queue(1000)

    def read():
        for line in stream:
            taken.put(line)
        taken.put(None)

    threading.Thread(target=read, daemon=True).start()
    number = 0
    while True:
        try:
            line = taken.get(timeout=0.02)
        except queue.Empty:
            producer.poll()
            continue
        if line is None:
            return
        number += 1
        if line.strip():
            yield parsed(line, number)


def parsed(line, number):
    try:
        value = json.loads(line)
    except ValueError as e:
        raise ValueError(f"line {number} is no JSON: {e}") from None
    if not isinstance(value, dict):
        raise ValueError(f"line {number} is no JSON object")
    return value


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--bootstrap", default=os.environ.get("PENSTOCK_BOOTSTRAP", "127.0.0.1:9092"), help="brokers to ask first")
    parser.add_argument("--count", type=int, default=100, help="how many orders to make up")
    parser.add_argument("--stdin", action="store_true", help="send the JSON objects on standard input instead, one a line")
    parser.add_argument("--key", default="customer", help="field that is the key")
    parser.add_argument("--quiet", action="store_true", help="print no receipts")
    args = parser.parse_args()

    serializer, receipts = JsonSerializer(), Receipts(args.quiet)
    cluster = Cluster(args.bootstrap.split(","))
    sent, wrong = 0, None
    try:
        producer = Producer(cluster, args.topic, receipts.done)
        try:
            for value in lines(sys.stdin, producer) if args.stdin else orders(args.count):
                key = value.get(args.key)
                producer.send(None if key is None else str(key).encode(), serializer.serialize(value), sent)
                sent += 1
        except ValueError as e:
            wrong = e  # what came before it is sent all the same
        producer.close()
    except (PenstockError, grpc.RpcError) as e:
        wrong = explain(e)
    cluster.close()
    print(f"{sent - receipts.failed} of {sent} records acknowledged", file=sys.stderr)
    if wrong is not None:
        print(f"error: {wrong}", file=sys.stderr)
    return 1 if receipts.failed or wrong is not None else 0


if __name__ == "__main__":
    status = main()
    # All is closed and written. Debian's grpcio can hang in its own threads while the interpreter ends: leave without that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
