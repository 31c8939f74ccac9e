// Package core decides what the active controller does: which records answer a request, who is fenced, who leads.
//
// It is pure. Times and fresh ids come in as arguments; there is no clock, goroutine, disk, network or randomness inside, and
// equal inputs give equal records. A shell (package controller, or the simulation) owns all of those.
//
// State holds the last committed image and what is soft about the cluster: broker sessions and probes. A Batch decides any
// number of requests into one entry of the metadata log, each on the image with the records of the earlier ones in it. The
// shell answers the requests of a batch once its entry is committed, and then calls Applied; it begins no second batch before
// that.
//
//	state.Activate(now, image)             // gained leadership, barrier passed
//	state.Touch(request, now)              // a heartbeat arrived; answered at once where nothing is to be decided
//	batch := state.Begin(now)
//	batch.RegisterBroker(...)              // and so on
//	batch.FenceDead()
//	entry := batch.Entry()                 // nil where nothing changes
//	... commit ...
//	state.Applied(image)
package core
