// Package resources finds out what the machine gives to the process, memory of its control groups and open files, and whether
// that is enough for a configuration: what is not refuses to start, and what is scarce is warned of.
package resources
