// Package wire is how Penstock uses gRPC: codec, buffer pool, options, the split of one port among protocols, and the
// translation of errors. Servers take [ServerOptions], clients [DialOptions]; nobody sets these things elsewhere, and
// nothing here changes gRPC for the rest of the process.
//
// # Data messages
//
// Three messages carry record batches: [ProduceRequest], [FetchResponse] and [ReplicateResponse]. Each holds the
// generated message as Head, without the bytes, and the bytes as a [Payload]. On the wire they are exactly the generated
// messages, in both directions; but the payload is neither copied when sent nor when received. They travel through
// the generated streams by way of the typed views of this package ([ProduceServerStream] and its siblings), or through
// SendMsg and RecvMsg directly.
//
// # Ownership
//
// The bytes of a Payload never change. They are counted: one reference a holder, freed once.
//   - Who receives a data message owns one reference to its Payload and ends it with Free. Who passes the Payload on to
//     another holder gives that one its own reference, made with Ref.
//   - Sending takes a reference of its own, which gRPC frees when it is done with the bytes. The sender keeps its own and
//     may free it as soon as Send has returned.
//   - Slices that Bytes returned are valid while the reference is held through which they were obtained.
//
// A [Pool] made by [NewDebugPool] overwrites what is returned to it and panics where something is returned twice; its
// Leaks names what was never returned.
package wire
