// Package client is the Go client of Penstock: a [Producer], a [Consumer] by partition and offset, and administration.
//
//	c, err := client.Dial(ctx, client.Config{Bootstrap: []string{"127.0.0.1:9092"}})
//	if err != nil { ... }
//	defer c.Close()
//	p, err := c.NewProducer(ctx, client.ProducerConfig{})
//	if err != nil { ... }
//	receipt, err := p.ProduceSync(ctx, client.Record{Topic: "orders", Key: []byte("k"), Value: []byte("v")})
//
// A Client keeps one connection to each broker it needs, follows leaders as the cluster moves them, and shares both among
// its producers and consumers. Everything is bounded: memory, batches in flight, connections, and, by timeouts and
// contexts, time.
//
// Failures are of type [*Error], with the stable names that `brokerctl errors` lists, or errors of the caller's context.
//
// # Locks
//
// Where more than one is held they are taken in this order: partition of a producer, producer, stream, metadata. None
// is held while a callback runs or anything blocks.
package client
