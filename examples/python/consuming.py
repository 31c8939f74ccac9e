"""A consumer of plain records over Fetch streams with credit; it goes on where it was when leaders change."""

import collections
import queue
import threading
import time

import grpc

from cluster import PASSING, backoff, failure
from penstock.v1 import consumer_pb2, consumer_pb2_grpc

CREDIT_BYTES = 4 << 20
FRAME_BYTES = 256 << 10
QUEUED_FRAMES = 16  # a stream whose frames are not taken stops reading, and the transport holds the broker back
RECORD_OVERHEAD = 128  # more than a stored record is larger than a plain one

Record = collections.namedtuple("Record", "topic partition offset timestamp_ms key value headers")


class Stream:
    """One Fetch stream to one broker. A thread puts its frames into events."""

    def __init__(self, address, channel, events, stopping):
        self.address, self.commands = address, queue.SimpleQueue()
        self.subscriptions = {}  # subscription id -> partition
        self.fed = set()  # subscription ids that have brought records
        self.commands.put(consumer_pb2.FetchRequest(open=consumer_pb2.FetchOpen(
            credit_bytes=CREDIT_BYTES, max_frame_bytes=FRAME_BYTES, format=consumer_pb2.FETCH_FORMAT_RECORDS)))
        self.call = consumer_pb2_grpc.ConsumerServiceStub(channel).Fetch(iter(self.commands.get, None))
        threading.Thread(target=self._read, args=(events, stopping), daemon=True).start()

    def _read(self, events, stopping):
        why = None
        try:
            for frame in self.call:
                self._put(events, stopping, (self, frame, None))
        except grpc.RpcError as e:
            why = e
        self._put(events, stopping, (self, None, why or grpc.RpcError("the broker ended the stream")))

    @staticmethod
    def _put(events, stopping, event):
        while not stopping.is_set():
            try:
                return events.put(event, timeout=0.2)
            except queue.Full:
                pass

    def close(self):
        self.commands.put(None)
        self.call.cancel()


class Consumer:
    """Iterates over the records of a topic. until_end stops at the end as it was at the start; otherwise it goes on."""

    def __init__(self, cluster, topic, from_beginning=True, until_end=False, drop_duplicates=True):
        self.cluster, self.topic, self.drop_duplicates = cluster, topic, drop_duplicates
        self.dropped = 0
        self.positions = cluster.list_offsets(
            topic, consumer_pb2.OFFSET_POSITION_START if from_beginning else consumer_pb2.OFFSET_POSITION_END)
        self.ends = cluster.list_offsets(topic, consumer_pb2.OFFSET_POSITION_END) if until_end else {}
        # Partitions without a subscription: when to try, and how often it was tried.
        self.homeless = {p: (0.0, 0) for p, at in self.positions.items() if not until_end or at < self.ends[p]}
        self.attempts = dict.fromkeys(self.positions, 0)
        self.seen = {}  # (partition, producer) -> last sequence
        self.streams, self.next_id = {}, 0
        self.events, self.stopping = queue.Queue(QUEUED_FRAMES), threading.Event()

    def close(self):
        self.stopping.set()
        for stream in self.streams.values():
            stream.close()

    def __iter__(self):
        while self.homeless or any(s.subscriptions for s in self.streams.values()):
            if not self.ends:
                self._grow()
            self._subscribe()
            try:
                stream, frame, ended = self.events.get(timeout=0.05)
            except queue.Empty:
                continue
            if ended is not None:
                self._lost(stream, ended)
                continue
            partition = stream.subscriptions.get(frame.subscription_id)
            first = partition is not None and frame.subscription_id not in stream.fed
            if partition is not None:
                yield from self._records(partition, frame)
                self._advance(stream, partition, frame)
            if frame.records:
                self._give_back(stream, frame, first)

    def _grow(self):
        """Takes partitions that were added since, from their beginning on."""
        self.cluster.keep_fresh(self.topic)
        for partition in range(len(self.positions), self.cluster.partitions[self.topic]):
            self.positions[partition], self.homeless[partition], self.attempts[partition] = 0, (0.0, 0), 0

    def _records(self, partition, frame):
        for r in frame.records:
            if r.offset < self.positions[partition]:
                continue
            headers = [(h.key, h.value if h.HasField("value") else None) for h in r.headers]
            if self.drop_duplicates and self._duplicate(partition, dict(headers)):
                self.dropped += 1
                continue
            yield Record(self.topic, partition, r.offset, r.timestamp_ms, r.key if r.HasField("key") else None,
                         r.value if r.HasField("value") else None, headers)

    def _duplicate(self, partition, headers):
        """True for the second copy of a record that a producer sent again; see producing.Producer."""
        if "producer" not in headers or not (headers.get("sequence") or b"").isdigit():
            return False
        who, sequence = (partition, headers["producer"]), int(headers["sequence"])
        if sequence <= self.seen.get(who, -1):
            return True
        self.seen[who] = sequence
        return False

    def _advance(self, stream, partition, frame):
        if frame.HasField("error"):
            del stream.subscriptions[frame.subscription_id]
            error = failure(frame.error)
            if not error.retryable:
                raise error
            followed = frame.error.HasField("leader") and self.cluster.follow(frame.error.leader)
            self._again(partition, refresh=not followed)
            return
        if frame.records:
            stream.fed.add(frame.subscription_id)
            self.attempts[partition] = 0
        self.positions[partition] = max(self.positions[partition], frame.next_offset)
        if frame.end_of_range:
            del stream.subscriptions[frame.subscription_id]

    def _give_back(self, stream, frame, first):
        """Grants what the frame cost, rather more than less: the broker counts the bytes as stored, which a plain client
        does not see, and credit that leaks away would end in silence. The queue above bounds what piles up here."""
        spent = frame.ByteSize() + RECORD_OVERHEAD * len(frame.records) + (FRAME_BYTES if first else 0)
        stream.commands.put(consumer_pb2.FetchRequest(credit=consumer_pb2.FetchCredit(bytes=spent)))

    def _subscribe(self):
        for partition, (when, _) in list(self.homeless.items()):
            if time.monotonic() < when:
                continue
            address = self.cluster.leader(self.topic, partition)
            if address is None:
                self._again(partition, refresh=True)
                continue
            if address not in self.streams:
                self.streams[address] = Stream(address, self.cluster.channel(address), self.events, self.stopping)
            stream = self.streams[address]
            self.next_id += 1
            stream.subscriptions[self.next_id] = partition
            stream.commands.put(consumer_pb2.FetchRequest(subscribe=consumer_pb2.FetchSubscribe(
                subscription_id=self.next_id, topic=self.topic, topic_id=self.cluster.ids[self.topic], partition=partition,
                offset=self.positions[partition], end_offset=self.ends.get(partition))))
            del self.homeless[partition]

    def _lost(self, stream, ended):
        if self.streams.get(stream.address) is stream:
            del self.streams[stream.address]
        if isinstance(ended, grpc.Call) and ended.code() not in PASSING:
            raise ended
        for partition in stream.subscriptions.values():
            self._again(partition, refresh=True)

    def _again(self, partition, refresh):
        attempt = self.attempts[partition]
        self.attempts[partition] = attempt + 1
        self.homeless[partition] = (time.monotonic() + backoff(attempt), attempt)
        if refresh:
            self.cluster.look_again(self.topic)
