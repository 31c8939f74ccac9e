// Package broker puts a node together: it builds the parts bottom-up, starts them in the order of rule R6 (lock the data
// directory, recover, register, catch up with the metadata, unfence), and stops them top-down. It decides nothing.
package broker
