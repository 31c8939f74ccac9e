package core

// LowestPosition is the lowest offset up to which all assigned replicas are known to hold the log on their disks: for a
// leader the least of what they reported in this leader epoch, 0 while one has not been heard of. Compaction must not drop
// tombstones at or above it: a replica that has not got one yet would keep what it deletes. It is 0 unless leading.
func (r *Replica) LowestPosition() int64 {
	if r.role != RoleLeader {
		return 0
	}
	low := r.log.Durable
	for i := range r.lead.followers {
		low = min(low, r.lead.followers[i].ends.durable)
	}
	return max(low, 0)
}
