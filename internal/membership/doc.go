// Package membership is the gossip between nodes, over memberlist. It finds nodes and says early that one may have come
// or gone. What it says is a hint and never an authority: only the controller decides who is alive.
package membership
