package server

import "context"

// Operation is what a request wants to do.
type Operation int

// The operations.
const (
	OperationRead Operation = iota + 1
	OperationWrite
	OperationCreate
	OperationDelete
	OperationAlter
	OperationDescribe
	OperationInternal // between nodes
)

// ResourceKind says what a request touches.
type ResourceKind int

// The kinds of resources.
const (
	ResourceCluster ResourceKind = iota + 1
	ResourceTopic
)

// Resource is what a request touches.
type Resource struct {
	Kind ResourceKind
	Name string // of a topic; empty for the cluster
}

// cluster and topic make resources.
func cluster() Resource { return Resource{Kind: ResourceCluster} }

func topic(name string) Resource { return Resource{Kind: ResourceTopic, Name: name} }

// Authorize decides whether the caller of ctx may do that. Every request passes it before it has any effect. There are no
// access rules yet: it allows everything.
func Authorize(ctx context.Context, _ Operation, _ Resource) error { return ctx.Err() }
