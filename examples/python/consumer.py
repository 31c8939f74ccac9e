#!/usr/bin/python3
"""Consumes JSON values and prints one object a record."""

import argparse
import json
import os
import sys

import grpc

from cluster import Cluster, PenstockError, explain
from consuming import Consumer
from serializer import JsonSerializer


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("topic")
    parser.add_argument("--bootstrap", default=os.environ.get("PENSTOCK_BOOTSTRAP", "127.0.0.1:9092"), help="brokers to ask first")
    parser.add_argument("--from-end", action="store_true", help="begin with what comes from now on")
    parser.add_argument("--follow", action="store_true", help="go on for ever instead of ending at the end of the log")
    parser.add_argument("--duplicates", action="store_true", help="print second copies of records too")
    args = parser.parse_args()

    serializer = JsonSerializer()
    cluster = Cluster(args.bootstrap.split(","))
    try:
        consumer = Consumer(cluster, args.topic, from_beginning=not args.from_end, until_end=not args.follow,
                            drop_duplicates=not args.duplicates)
    except (PenstockError, grpc.RpcError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        return 1
    read = unreadable = status = 0
    try:
        for record in consumer:
            line = {"partition": record.partition, "offset": record.offset, "key": None if record.key is None else record.key.decode(errors="backslashreplace")}
            try:
                line["value"] = None if record.value is None else serializer.deserialize(record.value)
            except ValueError as e:
                # Somebody else's bytes must not stop the consumer for ever; it says where they are.
                unreadable += 1
                print(f"partition {record.partition}, offset {record.offset} is no JSON: {e}", file=sys.stderr)
                continue
            print(json.dumps(line, ensure_ascii=False), flush=args.follow)
            read += 1
    except KeyboardInterrupt:
        pass
    except (PenstockError, grpc.RpcError) as e:
        print(f"error: {explain(e)}", file=sys.stderr)
        status = 1
    finally:
        consumer.close()
        cluster.close()
    print(f"{read} records, {consumer.dropped} duplicates dropped, {unreadable} unreadable", file=sys.stderr)
    return status


if __name__ == "__main__":
    status = main()
    # All is closed and written. Debian's grpcio can hang in its own threads while the interpreter ends: leave without that.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
