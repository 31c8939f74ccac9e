// Package config is the settings of a node: one table of keys ([Keys]), read from defaults, a YAML file, variables of the
// environment and flags, in rising order of precedence, with the origin of each value kept.
//
// Nothing is guessed: an unknown or repeated key, a malformed value, or a file that is named and cannot be read refuses
// to start, and the error names the key, where it stands, and the nearest key that exists.
package config
