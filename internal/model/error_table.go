package model

import "google.golang.org/grpc/codes"

// The codes of the stable error table.
const (
	// CodeUnknownServerError is UNKNOWN_SERVER_ERROR: the broker failed in a way that has no name of its own.
	CodeUnknownServerError ErrorCode = -1
	// CodeNone is NONE: no error.
	CodeNone ErrorCode = 0
	// CodeOffsetOutOfRange is OFFSET_OUT_OF_RANGE: the offset lies below the log start offset or above the log end offset.
	CodeOffsetOutOfRange ErrorCode = 1
	// CodeCorruptBatch is CORRUPT_BATCH: A record batch is damaged or lies about its contents; nothing of it was written.
	CodeCorruptBatch ErrorCode = 2
	// CodeUnknownTopicOrPartition is UNKNOWN_TOPIC_OR_PARTITION: the broker knows no such topic or partition.
	CodeUnknownTopicOrPartition ErrorCode = 3
	// CodeLeaderNotAvailable is LEADER_NOT_AVAILABLE: the partition has no leader at the moment.
	CodeLeaderNotAvailable ErrorCode = 5
	// CodeNotLeaderForPartition is NOT_LEADER_FOR_PARTITION: the broker does not lead the partition.
	CodeNotLeaderForPartition ErrorCode = 6
	// CodeRequestTimedOut is REQUEST_TIMED_OUT: the request was not completed in time; it may still take effect.
	CodeRequestTimedOut ErrorCode = 7
	// CodeBrokerNotAvailable is BROKER_NOT_AVAILABLE: the broker cannot be reached or does not serve yet.
	CodeBrokerNotAvailable ErrorCode = 8
	// CodeReplicaNotAvailable is REPLICA_NOT_AVAILABLE: the broker has no usable replica of the partition.
	CodeReplicaNotAvailable ErrorCode = 9
	// CodeBatchTooLarge is BATCH_TOO_LARGE: the batch is larger than max.message.bytes of the topic or the limit of the listener.
	CodeBatchTooLarge ErrorCode = 10
	// CodeInvalidTopic is INVALID_TOPIC: the topic name is not allowed.
	CodeInvalidTopic ErrorCode = 17
	// CodeNotEnoughReplicas is NOT_ENOUGH_REPLICAS: the in-sync set is smaller than min.insync.replicas; nothing was written.
	CodeNotEnoughReplicas ErrorCode = 19
	// CodeNotEnoughReplicasAfterAppend is NOT_ENOUGH_REPLICAS_AFTER_APPEND: the in-sync set shrank below min.insync.replicas after the batch was appended.
	CodeNotEnoughReplicasAfterAppend ErrorCode = 20
	// CodeInvalidRequiredAcks is INVALID_REQUIRED_ACKS: the value of acks is not one of none, leader, all.
	CodeInvalidRequiredAcks ErrorCode = 21
	// CodeTopicAuthorizationFailed is TOPIC_AUTHORIZATION_FAILED: the principal may not do this to the topic.
	CodeTopicAuthorizationFailed ErrorCode = 29
	// CodeClusterAuthorizationFailed is CLUSTER_AUTHORIZATION_FAILED: the principal may not do this to the cluster.
	CodeClusterAuthorizationFailed ErrorCode = 31
	// CodeInvalidTimestamp is INVALID_TIMESTAMP: the time of a record is out of the accepted range.
	CodeInvalidTimestamp ErrorCode = 32
	// CodeTopicAlreadyExists is TOPIC_ALREADY_EXISTS: A topic of this name exists.
	CodeTopicAlreadyExists ErrorCode = 36
	// CodeInvalidPartitions is INVALID_PARTITIONS: the number of partitions is out of range.
	CodeInvalidPartitions ErrorCode = 37
	// CodeInvalidReplicationFactor is INVALID_REPLICATION_FACTOR: the replication factor is below 1 or above the number of registered brokers.
	CodeInvalidReplicationFactor ErrorCode = 38
	// CodeInvalidReplicaAssignment is INVALID_REPLICA_ASSIGNMENT: the replicas named cannot hold the partition.
	CodeInvalidReplicaAssignment ErrorCode = 39
	// CodeInvalidConfig is INVALID_CONFIG: A setting is unknown or its value is malformed or out of range.
	CodeInvalidConfig ErrorCode = 40
	// CodeNotController is NOT_CONTROLLER: the node is not the active controller.
	CodeNotController ErrorCode = 41
	// CodeInvalidRequest is INVALID_REQUEST: the request contradicts itself or lacks a field.
	CodeInvalidRequest ErrorCode = 42
	// CodeOutOfOrderSequence is OUT_OF_ORDER_SEQUENCE: the sequence of the batch is not the one after the last that was appended: a batch between was lost.
	CodeOutOfOrderSequence ErrorCode = 45
	// CodeDuplicateSequence is DUPLICATE_SEQUENCE: the batch was appended before, too long ago to say where.
	CodeDuplicateSequence ErrorCode = 46
	// CodeInvalidProducerEpoch is INVALID_PRODUCER_EPOCH: A newer incarnation of the producer has written.
	CodeInvalidProducerEpoch ErrorCode = 47
	// CodeStorageError is STORAGE_ERROR: the broker's disk failed; the broker stops or hands its partitions over.
	CodeStorageError ErrorCode = 56
	// CodeUnknownProducerID is UNKNOWN_PRODUCER_ID: the partition holds nothing of this producer and the sequence is not 0.
	CodeUnknownProducerID ErrorCode = 59
	// CodeFencedLeaderEpoch is FENCED_LEADER_EPOCH: the leader epoch of the request is older than the broker's.
	CodeFencedLeaderEpoch ErrorCode = 74
	// CodeUnknownLeaderEpoch is UNKNOWN_LEADER_EPOCH: the leader epoch of the request is newer than the broker's.
	CodeUnknownLeaderEpoch ErrorCode = 75
	// CodeUnsupportedCompression is UNSUPPORTED_COMPRESSION: the codec of the batch is not known.
	CodeUnsupportedCompression ErrorCode = 76
	// CodeStaleBrokerEpoch is STALE_BROKER_EPOCH: the broker epoch of the request is not the registered one.
	CodeStaleBrokerEpoch ErrorCode = 77
	// CodeOffsetNotAvailable is OFFSET_NOT_AVAILABLE: the leader is new and its high watermark has not reached its epoch yet.
	CodeOffsetNotAvailable ErrorCode = 78
	// CodeEligibleLeadersNotAvailable is ELIGIBLE_LEADERS_NOT_AVAILABLE: no live broker may lead the partition without losing records.
	CodeEligibleLeadersNotAvailable ErrorCode = 83
	// CodeInvalidRecord is INVALID_RECORD: A record is not allowed in this topic.
	CodeInvalidRecord ErrorCode = 87
	// CodeInvalidUpdateVersion is INVALID_UPDATE_VERSION: the partition changed since the proposal was decided.
	CodeInvalidUpdateVersion ErrorCode = 95
	// CodeUnknownTopicID is UNKNOWN_TOPIC_ID: the broker knows no topic with this id: it was deleted, perhaps recreated.
	CodeUnknownTopicID ErrorCode = 100
	// CodeDuplicateBroker is DUPLICATE_BROKER: A live broker with this id and another data directory is registered.
	CodeDuplicateBroker ErrorCode = 101
	// CodeBrokerIDNotRegistered is BROKER_ID_NOT_REGISTERED: no broker of this id is registered.
	CodeBrokerIDNotRegistered ErrorCode = 102
	// CodeInconsistentTopicID is INCONSISTENT_TOPIC_ID: the topic name and the topic id of the request belong to different topics.
	CodeInconsistentTopicID ErrorCode = 103
	// CodeInconsistentClusterID is INCONSISTENT_CLUSTER_ID: the node or directory belongs to another cluster.
	CodeInconsistentClusterID ErrorCode = 104
	// CodeIneligibleReplica is INELIGIBLE_REPLICA: A broker that was proposed for the in-sync set is fenced or registered anew.
	CodeIneligibleReplica ErrorCode = 107
	// CodeCommittedDataDiverged is COMMITTED_DATA_DIVERGED: A replica would have to cut records that were committed; the partition is stopped.
	CodeCommittedDataDiverged ErrorCode = 1000
	// CodeCorruptRecord is CORRUPT_RECORD: stored bytes fail their checksum and no other replica has them.
	CodeCorruptRecord ErrorCode = 1001
	// CodeNoQuorum is NO_QUORUM: no active controller can be reached.
	CodeNoQuorum ErrorCode = 1002
	// CodeShuttingDown is SHUTTING_DOWN: the broker is stopping.
	CodeShuttingDown ErrorCode = 1003
	// CodeTooManyRequests is TOO_MANY_REQUESTS: A limit on streams, subscriptions or bytes in flight is reached.
	CodeTooManyRequests ErrorCode = 1004
	// CodeNoSpace is NO_SPACE: the disk of the leader is full.
	CodeNoSpace ErrorCode = 1005
	// CodeUnknownOutcome is UNKNOWN_OUTCOME: the controller lost its leadership while it wrote; the change may or may not take effect.
	CodeUnknownOutcome ErrorCode = 1006
	// CodeUnsupportedFeatureLevel is UNSUPPORTED_FEATURE_LEVEL: the node cannot run with the feature level of the cluster.
	CodeUnsupportedFeatureLevel ErrorCode = 1007
)

// ErrorInfo is one row of the stable error table.
type ErrorInfo struct {
	// Code is the stable number.
	Code ErrorCode
	// Name is the stable name.
	Name string
	// GRPC is the status code of unary calls that fail so.
	GRPC codes.Code
	// Definite says that the request certainly had no effect.
	Definite bool
	// Retryable says that the same request may succeed later or elsewhere.
	Retryable bool
	// Meaning is a sentence on what happened.
	Meaning string
	// Action is a sentence on what to do.
	Action string
}

var errorTable = []ErrorInfo{
	{
		Code: CodeUnknownServerError, Name: "UNKNOWN_SERVER_ERROR", GRPC: codes.Unknown, Definite: false, Retryable: false,
		Meaning: "The broker failed in a way that has no name of its own.",
		Action:  "Read the broker's log; the outcome is unknown.",
	},
	{
		Code: CodeNone, Name: "NONE", GRPC: codes.OK, Definite: true, Retryable: false,
		Meaning: "No error.",
		Action:  "Nothing.",
	},
	{
		Code: CodeOffsetOutOfRange, Name: "OFFSET_OUT_OF_RANGE", GRPC: codes.OutOfRange, Definite: true, Retryable: false,
		Meaning: "The offset lies below the log start offset or above the log end offset.",
		Action:  "List the offsets and choose one between them.",
	},
	{
		Code: CodeCorruptBatch, Name: "CORRUPT_BATCH", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "A record batch is damaged or lies about its contents; nothing of it was written.",
		Action:  "Encode and send it anew; look for a faulty network or memory if it comes again.",
	},
	{
		Code: CodeUnknownTopicOrPartition, Name: "UNKNOWN_TOPIC_OR_PARTITION", GRPC: codes.NotFound, Definite: true, Retryable: true,
		Meaning: "The broker knows no such topic or partition.",
		Action:  "Create the topic, or retry shortly after it was created.",
	},
	{
		Code: CodeLeaderNotAvailable, Name: "LEADER_NOT_AVAILABLE", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The partition has no leader at the moment.",
		Action:  "Retry; if it lasts, see why its in-sync replicas are down.",
	},
	{
		Code: CodeNotLeaderForPartition, Name: "NOT_LEADER_FOR_PARTITION", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "The broker does not lead the partition.",
		Action:  "Follow the leader hint.",
	},
	{
		Code: CodeRequestTimedOut, Name: "REQUEST_TIMED_OUT", GRPC: codes.DeadlineExceeded, Definite: false, Retryable: true,
		Meaning: "The request was not completed in time; it may still take effect.",
		Action:  "Retry with the same producer id and sequence, or find out by reading.",
	},
	{
		Code: CodeBrokerNotAvailable, Name: "BROKER_NOT_AVAILABLE", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The broker cannot be reached or does not serve yet.",
		Action:  "Retry, or ask another broker.",
	},
	{
		Code: CodeReplicaNotAvailable, Name: "REPLICA_NOT_AVAILABLE", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The broker has no usable replica of the partition.",
		Action:  "Ask the leader.",
	},
	{
		Code: CodeBatchTooLarge, Name: "BATCH_TOO_LARGE", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The batch is larger than max.message.bytes of the topic or the limit of the listener.",
		Action:  "Send smaller batches or raise the setting.",
	},
	{
		Code: CodeInvalidTopic, Name: "INVALID_TOPIC", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The topic name is not allowed.",
		Action:  "Use 1 to 249 of A-Z a-z 0-9 . _ - and no leading double underscore.",
	},
	{
		Code: CodeNotEnoughReplicas, Name: "NOT_ENOUGH_REPLICAS", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The in-sync set is smaller than min.insync.replicas; nothing was written.",
		Action:  "Bring brokers back, then retry.",
	},
	{
		Code: CodeNotEnoughReplicasAfterAppend, Name: "NOT_ENOUGH_REPLICAS_AFTER_APPEND", GRPC: codes.Unavailable, Definite: false, Retryable: true,
		Meaning: "The in-sync set shrank below min.insync.replicas after the batch was appended.",
		Action:  "Retry with the same producer id and sequence.",
	},
	{
		Code: CodeInvalidRequiredAcks, Name: "INVALID_REQUIRED_ACKS", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The value of acks is not one of none, leader, all.",
		Action:  "Use one of them.",
	},
	{
		Code: CodeTopicAuthorizationFailed, Name: "TOPIC_AUTHORIZATION_FAILED", GRPC: codes.PermissionDenied, Definite: true, Retryable: false,
		Meaning: "The principal may not do this to the topic.",
		Action:  "Ask for the right.",
	},
	{
		Code: CodeClusterAuthorizationFailed, Name: "CLUSTER_AUTHORIZATION_FAILED", GRPC: codes.PermissionDenied, Definite: true, Retryable: false,
		Meaning: "The principal may not do this to the cluster.",
		Action:  "Ask for the right.",
	},
	{
		Code: CodeInvalidTimestamp, Name: "INVALID_TIMESTAMP", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The time of a record is out of the accepted range.",
		Action:  "Correct the producer's clock.",
	},
	{
		Code: CodeTopicAlreadyExists, Name: "TOPIC_ALREADY_EXISTS", GRPC: codes.AlreadyExists, Definite: true, Retryable: false,
		Meaning: "A topic of this name exists.",
		Action:  "Use it, or choose another name.",
	},
	{
		Code: CodeInvalidPartitions, Name: "INVALID_PARTITIONS", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The number of partitions is out of range.",
		Action:  "Use 1 to 10,000.",
	},
	{
		Code: CodeInvalidReplicationFactor, Name: "INVALID_REPLICATION_FACTOR", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The replication factor is below 1 or above the number of registered brokers.",
		Action:  "Use a smaller factor or add brokers.",
	},
	{
		Code: CodeInvalidReplicaAssignment, Name: "INVALID_REPLICA_ASSIGNMENT", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The replicas named cannot hold the partition.",
		Action:  "Name registered brokers, each once.",
	},
	{
		Code: CodeInvalidConfig, Name: "INVALID_CONFIG", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "A setting is unknown or its value is malformed or out of range.",
		Action:  "Correct the setting that the detail names.",
	},
	{
		Code: CodeNotController, Name: "NOT_CONTROLLER", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "The node is not the active controller.",
		Action:  "Ask the node that the detail names, or retry.",
	},
	{
		Code: CodeInvalidRequest, Name: "INVALID_REQUEST", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The request contradicts itself or lacks a field.",
		Action:  "Correct what the detail names.",
	},
	{
		Code: CodeOutOfOrderSequence, Name: "OUT_OF_ORDER_SEQUENCE", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The sequence of the batch is not the one after the last that was appended: a batch between was lost.",
		Action:  "Bump the producer epoch and decide what to send again.",
	},
	{
		Code: CodeDuplicateSequence, Name: "DUPLICATE_SEQUENCE", GRPC: codes.AlreadyExists, Definite: true, Retryable: false,
		Meaning: "The batch was appended before, too long ago to say where.",
		Action:  "Take it as done.",
	},
	{
		Code: CodeInvalidProducerEpoch, Name: "INVALID_PRODUCER_EPOCH", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "A newer incarnation of the producer has written.",
		Action:  "Stop this producer; the newer one goes on.",
	},
	{
		Code: CodeStorageError, Name: "STORAGE_ERROR", GRPC: codes.Unavailable, Definite: false, Retryable: true,
		Meaning: "The broker's disk failed; the broker stops or hands its partitions over.",
		Action:  "Retry at the next leader.",
	},
	{
		Code: CodeUnknownProducerID, Name: "UNKNOWN_PRODUCER_ID", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The partition holds nothing of this producer and the sequence is not 0.",
		Action:  "Bump the producer epoch and begin at sequence 0.",
	},
	{
		Code: CodeFencedLeaderEpoch, Name: "FENCED_LEADER_EPOCH", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "The leader epoch of the request is older than the broker's.",
		Action:  "Fetch the metadata and retry.",
	},
	{
		Code: CodeUnknownLeaderEpoch, Name: "UNKNOWN_LEADER_EPOCH", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "The leader epoch of the request is newer than the broker's.",
		Action:  "Retry: the broker is catching up.",
	},
	{
		Code: CodeUnsupportedCompression, Name: "UNSUPPORTED_COMPRESSION", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "The codec of the batch is not known.",
		Action:  "Use none, gzip, snappy, lz4 or zstd.",
	},
	{
		Code: CodeStaleBrokerEpoch, Name: "STALE_BROKER_EPOCH", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The broker epoch of the request is not the registered one.",
		Action:  "Register again.",
	},
	{
		Code: CodeOffsetNotAvailable, Name: "OFFSET_NOT_AVAILABLE", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The leader is new and its high watermark has not reached its epoch yet.",
		Action:  "Retry.",
	},
	{
		Code: CodeEligibleLeadersNotAvailable, Name: "ELIGIBLE_LEADERS_NOT_AVAILABLE", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "No live broker may lead the partition without losing records.",
		Action:  "Bring one of the brokers back that the detail names.",
	},
	{
		Code: CodeInvalidRecord, Name: "INVALID_RECORD", GRPC: codes.InvalidArgument, Definite: true, Retryable: false,
		Meaning: "A record is not allowed in this topic.",
		Action:  "Correct what the detail names.",
	},
	{
		Code: CodeInvalidUpdateVersion, Name: "INVALID_UPDATE_VERSION", GRPC: codes.Aborted, Definite: true, Retryable: true,
		Meaning: "The partition changed since the proposal was decided.",
		Action:  "Decide anew on the current state.",
	},
	{
		Code: CodeUnknownTopicID, Name: "UNKNOWN_TOPIC_ID", GRPC: codes.NotFound, Definite: true, Retryable: true,
		Meaning: "The broker knows no topic with this id: it was deleted, perhaps recreated.",
		Action:  "Fetch the metadata anew.",
	},
	{
		Code: CodeDuplicateBroker, Name: "DUPLICATE_BROKER", GRPC: codes.AlreadyExists, Definite: true, Retryable: true,
		Meaning: "A live broker with this id and another data directory is registered.",
		Action:  "Give this node another id, or wait until the other one is fenced.",
	},
	{
		Code: CodeBrokerIDNotRegistered, Name: "BROKER_ID_NOT_REGISTERED", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "No broker of this id is registered.",
		Action:  "Register it first.",
	},
	{
		Code: CodeInconsistentTopicID, Name: "INCONSISTENT_TOPIC_ID", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The topic name and the topic id of the request belong to different topics.",
		Action:  "Fetch the metadata anew.",
	},
	{
		Code: CodeInconsistentClusterID, Name: "INCONSISTENT_CLUSTER_ID", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The node or directory belongs to another cluster.",
		Action:  "Correct the address or the directory.",
	},
	{
		Code: CodeIneligibleReplica, Name: "INELIGIBLE_REPLICA", GRPC: codes.FailedPrecondition, Definite: true, Retryable: true,
		Meaning: "A broker that was proposed for the in-sync set is fenced or registered anew.",
		Action:  "Decide anew on the current state.",
	},
	{
		Code: CodeCommittedDataDiverged, Name: "COMMITTED_DATA_DIVERGED", GRPC: codes.DataLoss, Definite: true, Retryable: false,
		Meaning: "A replica would have to cut records that were committed; the partition is stopped.",
		Action:  "Compare the replicas and decide which history to keep.",
	},
	{
		Code: CodeCorruptRecord, Name: "CORRUPT_RECORD", GRPC: codes.DataLoss, Definite: true, Retryable: false,
		Meaning: "Stored bytes fail their checksum and no other replica has them.",
		Action:  "Restore from another copy or skip the range.",
	},
	{
		Code: CodeNoQuorum, Name: "NO_QUORUM", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "No active controller can be reached.",
		Action:  "Bring a majority of the controllers back, then retry.",
	},
	{
		Code: CodeShuttingDown, Name: "SHUTTING_DOWN", GRPC: codes.Unavailable, Definite: true, Retryable: true,
		Meaning: "The broker is stopping.",
		Action:  "Retry at another broker.",
	},
	{
		Code: CodeTooManyRequests, Name: "TOO_MANY_REQUESTS", GRPC: codes.ResourceExhausted, Definite: true, Retryable: true,
		Meaning: "A limit on streams, subscriptions or bytes in flight is reached.",
		Action:  "Slow down, then retry.",
	},
	{
		Code: CodeNoSpace, Name: "NO_SPACE", GRPC: codes.ResourceExhausted, Definite: true, Retryable: true,
		Meaning: "The disk of the leader is full.",
		Action:  "Free space or shorten retention, then retry.",
	},
	{
		Code: CodeUnknownOutcome, Name: "UNKNOWN_OUTCOME", GRPC: codes.Unknown, Definite: false, Retryable: true,
		Meaning: "The controller lost its leadership while it wrote; the change may or may not take effect.",
		Action:  "Look at the current state, then retry if needed.",
	},
	{
		Code: CodeUnsupportedFeatureLevel, Name: "UNSUPPORTED_FEATURE_LEVEL", GRPC: codes.FailedPrecondition, Definite: true, Retryable: false,
		Meaning: "The node cannot run with the feature level of the cluster.",
		Action:  "Run a matching version.",
	},
}

var errorIndex = func() map[ErrorCode]int {
	m := make(map[ErrorCode]int, len(errorTable))
	for i, row := range errorTable {
		m[row.Code] = i
	}
	return m
}()
