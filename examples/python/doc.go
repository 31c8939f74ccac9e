// Package python holds a producer and a consumer in Python that speak the gRPC API with plain records. Its tests run the
// session of the README and kill a broker under both, with Debian's python3.
package python
