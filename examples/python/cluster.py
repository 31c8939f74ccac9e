"""What every client of Penstock needs: find leaders, follow hints, judge errors. docs/clients.md explains the rules."""

import os
import sys
import time

import grpc

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "gen"))

from penstock.v1 import consumer_pb2, consumer_pb2_grpc, error_code_pb2, metadata_pb2, metadata_pb2_grpc  # noqa: E402

# A peer that vanishes without a word is noticed within these.
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", 32 << 20),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]
CALL_TIMEOUT = 5.0
BACKOFF = 0.1  # seconds before the first retry; doubled up to MAX_BACKOFF
MAX_BACKOFF = 1.0
METADATA_AGE = 5.0  # seconds after which a topic is asked for again: it may have got partitions

# The gRPC codes that say nothing about the request itself: another broker, or a later try, may answer it.
PASSING = {
    grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED,
    grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.RESOURCE_EXHAUSTED,
}


class PenstockError(Exception):
    """A failure with the stable name of its code. definite: it certainly had no effect; retryable: it may succeed later."""

    def __init__(self, code, message, definite, retryable):
        super().__init__(f"{code}: {message}")
        self.code, self.definite, self.retryable = code, definite, retryable


def failure(error):
    """Turns the Error of a frame into a PenstockError."""
    name = error_code_pb2.ErrorCode.Name(error.code) if error.code in error_code_pb2.ErrorCode.values() else str(error.code)
    return PenstockError(name.removeprefix("ERROR_CODE_"), error.message, error.definite, error.retryable)


def explain(error):
    """One line for people."""
    return str(error) if isinstance(error, PenstockError) else f"no broker answers: {error.details()}"


def backoff(attempt):
    """How long to wait before a retry, in seconds; attempt counts from 0."""
    return min(BACKOFF * 2 ** min(attempt, 10), MAX_BACKOFF)


class Cluster:
    """Knows brokers and leaders, as the listener that was asked names them, and keeps one channel a broker."""

    def __init__(self, bootstrap):
        self.bootstrap = list(bootstrap)
        self.brokers = {}  # node id -> address
        self.leaders = {}  # (topic, partition) -> (leader epoch, address)
        self.partitions = {}  # topic -> number of partitions
        self.ids = {}  # topic -> its id: a topic made anew under the same name is another one, with epochs and offsets of its own
        self.known_at = {}  # topic -> the metadata offset of what is known
        self.asked_at = {}  # topic -> when it was asked for last
        self.channels = {}

    def close(self):
        for channel in self.channels.values():
            channel.close()
        self.channels = {}

    def channel(self, address):
        if address not in self.channels:
            self.channels[address] = grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        return self.channels[address]

    def refresh(self, topic, within=30.0):
        """Asks one broker after another for the topic until one knows it."""
        deadline, attempt, last = time.monotonic() + within, 0, None
        self.asked_at[topic] = time.monotonic()
        while True:
            for address in dict.fromkeys([*self.brokers.values(), *self.bootstrap]):
                try:
                    return self._learn(topic, metadata_pb2_grpc.MetadataServiceStub(self.channel(address)).GetMetadata(
                        metadata_pb2.GetMetadataRequest(topics=[topic]), timeout=CALL_TIMEOUT))
                except PenstockError as e:
                    if not e.retryable:
                        raise
                    last = e
                except grpc.RpcError as e:
                    if e.code() not in PASSING:
                        raise
                    last = e
            if time.monotonic() > deadline:
                raise last
            time.sleep(backoff(attempt))
            attempt += 1

    def look_again(self, topic):
        """Refreshes once. What passes is for the next time; raises where the topic is another one now."""
        try:
            self.refresh(topic, within=0)
        except grpc.RpcError:
            pass
        except PenstockError as e:
            if not e.retryable:
                raise

    def keep_fresh(self, topic):
        """Looks again every METADATA_AGE."""
        if time.monotonic() > self.asked_at.get(topic, 0) + METADATA_AGE:
            self.look_again(topic)

    def _learn(self, topic, answer):
        self.brokers = {b.id: f"{b.host}:{b.port}" for b in answer.brokers} or self.brokers
        for found in answer.topics:
            if found.HasField("error"):
                raise failure(found.error)
            if answer.metadata_offset < self.known_at.get(found.name, 0):
                continue  # this broker is behind
            if self.ids.setdefault(found.name, found.topic_id) != found.topic_id:
                raise PenstockError("UNKNOWN_TOPIC_ID", f"topic {found.name} was deleted and made anew: start again for the new one", True, False)
            self.known_at[found.name] = answer.metadata_offset
            self.partitions[found.name] = len(found.partitions)
            for p in found.partitions:
                self._believe(found.name, p.partition, p.leader_epoch, self.brokers.get(p.leader_id))

    def follow(self, hint):
        """Takes a leader hint, unless it is older than what is known."""
        address = f"{hint.host}:{hint.port}" if hint.host else None
        return self._believe(hint.topic, hint.partition, hint.leader_epoch, address)

    def _believe(self, topic, partition, epoch, address):
        known = self.leaders.get((topic, partition))
        if known and known[0] > epoch:
            return False
        self.leaders[topic, partition] = (epoch, address)
        return address is not None

    def leader(self, topic, partition):
        """The address of the leader, or None while there is none."""
        return self.leaders.get((topic, partition), (-1, None))[1]

    def list_offsets(self, topic, position, within=30.0):
        """Looks a position up in all partitions: consumer_pb2.OFFSET_POSITION_START or _END."""
        offsets, deadline, attempt = {}, time.monotonic() + within, 0
        self.refresh(topic)
        while True:
            missing, last = [p for p in range(self.partitions[topic]) if p not in offsets], None
            for partition in missing:
                address = self.leader(topic, partition)
                if address is None:
                    last = PenstockError("LEADER_NOT_AVAILABLE", f"partition {partition} has no leader", True, True)
                    continue
                query = consumer_pb2.OffsetQuery(partition=partition, position=position)
                try:
                    answer = consumer_pb2_grpc.ConsumerServiceStub(self.channel(address)).ListOffsets(
                        consumer_pb2.ListOffsetsRequest(topic=topic, topic_id=self.ids[topic], queries=[query]), timeout=CALL_TIMEOUT)
                except grpc.RpcError as e:
                    if e.code() not in PASSING:
                        raise
                    last = e
                    continue
                result = answer.results[0]
                if not result.HasField("error"):
                    offsets[partition] = result.offset
                    continue
                last = failure(result.error)
                if not last.retryable:
                    raise last
                self.follow(result.error.leader)
            if len(offsets) == self.partitions[topic]:
                return offsets
            if time.monotonic() > deadline:
                raise last
            time.sleep(backoff(attempt))
            attempt += 1
            self.refresh(topic)


def partition_of(key, partitions):
    """The partition of a key as Kafka's default partitioner and Penstock's Go client choose it: murmur2."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(key)) & mask
    whole = len(key) - len(key) % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(key[i:i + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    rest = key[whole:]
    if rest:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return ((h ^ h >> 15) & 0x7FFFFFFF) % partitions
