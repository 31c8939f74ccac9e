"""A producer of plain records over Produce streams: one batch in flight a partition, so that retries keep the order."""

import queue
import threading
import time
import uuid

import grpc

from cluster import PASSING, PenstockError, backoff, failure, partition_of
from penstock.v1 import producer_pb2, producer_pb2_grpc, record_pb2

BATCH_RECORDS = 500
BATCH_BYTES = 512 << 10
LINGER = 0.05  # how long a batch that is not full waits for more records, in seconds
BROKER_TIMEOUT = 10.0  # how long a broker may wait for the in-sync replicas
ANSWER_SLACK = 5.0  # how much later its answer may come before the stream is given up


class Batch:
    def __init__(self, partition):
        self.partition = partition
        self.records, self.tokens, self.bytes = [], [], 0
        self.began, self.deadline, self.attempts, self.not_before = time.monotonic(), None, 0, 0.0
        self.uncertain = False  # an earlier attempt may have been appended


class Stream:
    """One Produce stream to one broker. A thread puts what it answers into events."""

    def __init__(self, address, channel, events):
        self.address, self.requests, self.in_flight = address, queue.SimpleQueue(), {}
        self.call = producer_pb2_grpc.ProducerServiceStub(channel).Produce(iter(self.requests.get, None))
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events):
        why = None
        try:
            for response in self.call:
                events.put((self, response, None))
        except grpc.RpcError as e:
            why = e
        events.put((self, None, why or grpc.RpcError("the broker ended the stream")))

    def close(self):
        self.requests.put(None)
        self.call.cancel()


class Producer:
    """Sends records and calls on_done(token, receipt, error) for each; receipt is (offset, Receipt).

    Plain records are appended without idempotence: where an answer is lost and the batch is sent again, it may stand in the
    log twice. Every record therefore carries the headers "producer" and "sequence", by which consumers drop the second
    copy. After a failure that is not definite the record may or may not be in the log.
    """

    def __init__(self, cluster, topic, on_done, acks=producer_pb2.ACKS_ALL, delivery_timeout=60.0):
        self.cluster, self.topic, self.on_done, self.acks = cluster, topic, on_done, acks
        self.delivery_timeout = delivery_timeout
        self.id = uuid.uuid4().hex.encode()
        self.sequences, self.filling, self.waiting, self.streams = {}, {}, {}, {}
        self.events, self.correlation, self.spread = queue.SimpleQueue(), 0, 0
        cluster.refresh(topic)

    def send(self, key, value, token):
        """Takes one record; key and value are bytes or None. Blocks while a full batch of the partition is under way."""
        count = self.cluster.partitions[self.topic]
        if key is None:
            self.spread += 1
            partition = self.spread // BATCH_RECORDS % count
        else:
            partition = partition_of(key, count)
        sequence = self.sequences.get(partition, 0)
        self.sequences[partition] = sequence + 1
        batch = self.filling.setdefault(partition, Batch(partition))
        batch.records.append(record_pb2.Record(key=key, value=value, timestamp_ms=time.time_ns() // 1_000_000, headers=[
            record_pb2.RecordHeader(key="producer", value=self.id),
            record_pb2.RecordHeader(key="sequence", value=str(sequence).encode()),
        ]))
        batch.tokens.append(token)
        batch.bytes += len(key or b"") + len(value or b"")
        if len(batch.records) >= BATCH_RECORDS or batch.bytes >= BATCH_BYTES:
            self._launch(partition)
        self._pump(0)

    def poll(self):
        """Sends what has waited long enough and takes what has come; to be called now and then where nothing is sent."""
        self._pump(0)

    def flush(self):
        """Returns when every record has its receipt or its error."""
        for partition in list(self.filling):
            self._launch(partition)
        while self.waiting:
            self._pump(0.05)

    def close(self):
        try:
            self.flush()
        finally:
            for stream in self.streams.values():
                stream.close()

    def _launch(self, partition):
        while partition in self.waiting:
            self._pump(0.05)
        if partition in self.filling:
            self._line_up(partition)

    def _line_up(self, partition):
        batch = self.filling.pop(partition)
        batch.deadline = time.monotonic() + self.delivery_timeout
        self.waiting[partition] = batch

    def _pump(self, wait):
        """Sends what is due and takes what has come, waiting for it so long at most."""
        try:
            self.cluster.keep_fresh(self.topic)
        except PenstockError:
            pass  # the records under way get their errors when their batch is answered
        now = time.monotonic()
        for partition, batch in list(self.filling.items()):
            if partition not in self.waiting and now > batch.began + LINGER:
                self._line_up(partition)
        flying = {b.partition: s for s in self.streams.values() for b, _ in s.in_flight.values()}
        for batch in list(self.waiting.values()):
            if batch.partition not in flying and now >= batch.not_before:
                self._dispatch(batch, now)
        for stream in list(self.streams.values()):
            if any(now > sent + BROKER_TIMEOUT + ANSWER_SLACK for _, sent in stream.in_flight.values()):
                stream.call.cancel()  # its reader reports the end
        try:
            while True:
                self._take(*self.events.get(timeout=wait) if wait else self.events.get_nowait())
                wait = 0
        except queue.Empty:
            pass

    def _dispatch(self, batch, now):
        if now > batch.deadline:
            return self._finish(batch, None, PenstockError(
                "REQUEST_TIMED_OUT", "not delivered in time", definite=not batch.uncertain, retryable=True))
        address = self.cluster.leader(self.topic, batch.partition)
        if address is None:
            return self._again(batch, refresh=True)
        if address not in self.streams:
            self.streams[address] = Stream(address, self.cluster.channel(address), self.events)
        stream = self.streams[address]
        self.correlation += 1
        stream.in_flight[self.correlation] = (batch, now)
        stream.requests.put(producer_pb2.ProduceRequest(
            correlation_id=self.correlation, topic=self.topic, topic_id=self.cluster.ids[self.topic], partition=batch.partition, acks=self.acks,
            timeout_ms=int(BROKER_TIMEOUT * 1000), records=batch.records))

    def _take(self, stream, response, ended):
        if ended is not None:
            # What was under way may have been appended: the answer is lost, not necessarily the batch.
            if self.streams.get(stream.address) is stream:
                del self.streams[stream.address]
            passing = not isinstance(ended, grpc.Call) or ended.code() in PASSING
            for batch, _ in stream.in_flight.values():
                batch.uncertain = True
                if passing:
                    self._again(batch, refresh=True)
                else:
                    self._finish(batch, None, PenstockError(ended.code().name, ended.details(), False, False))
            return
        batch, _ = stream.in_flight.pop(response.correlation_id, (None, None))
        if batch is None:
            return
        if not response.HasField("error"):
            return self._finish(batch, response.receipt, None)
        error = failure(response.error)
        if not error.definite:
            batch.uncertain = True
        if not error.retryable:
            return self._finish(batch, None, PenstockError(error.code, str(error), not batch.uncertain, False))
        followed = response.error.HasField("leader") and self.cluster.follow(response.error.leader)
        self._again(batch, refresh=not followed, wait=0 if followed and not batch.attempts else response.error.retry_after_ms / 1000 or None)

    def _again(self, batch, refresh, wait=None):
        """Queues a retry. Only the first hint is followed at once: two brokers that name each other must not be hammered."""
        batch.not_before = time.monotonic() + (backoff(batch.attempts) if wait is None else wait)
        batch.attempts += 1
        if refresh:
            try:
                self.cluster.look_again(self.topic)
            except PenstockError as e:
                self._finish(batch, None, PenstockError(e.code, str(e), not batch.uncertain, False))

    def _finish(self, batch, receipt, error):
        del self.waiting[batch.partition]
        for i, token in enumerate(batch.tokens):
            self.on_done(token, None if receipt is None else (receipt.base_offset + i, receipt), error)
