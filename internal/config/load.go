package config

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
)

// Origin says where the value of a setting comes from.
type Origin string

// The origins, from weak to strong.
const (
	OriginDefault Origin = "default"
	OriginFile    Origin = "file"
	OriginEnv     Origin = "environment"
	OriginFlag    Origin = "flag"
)

// Setting is the value in force of one key.
type Setting struct {
	Key    Key
	Value  string
	Origin Origin
	Where  string // the file with its line, the name of the variable or of the flag; empty for defaults
}

// Source is what to read settings from.
type Source struct {
	File    string            // YAML file; empty for none
	Environ []string          // NAME=value, as os.Environ returns it
	Flags   map[string]string // by key, as [Flags.Values] returns them
}

// Error says which setting is wrong, where it stands, and why.
type Error struct {
	Key   string // may be empty where the file as a whole is wrong
	Where string // "flag --node.id", "variable PENSTOCK_NODE_ID", "node.yaml line 3"
	Err   error
}

// Error names place, key and reason.
func (e *Error) Error() string {
	switch {
	case e.Key == "":
		return fmt.Sprintf("configuration: %s: %v", e.Where, e.Err)
	case e.Where == "":
		return fmt.Sprintf("configuration: %s: %v", e.Key, e.Err)
	default:
		return fmt.Sprintf("configuration: %s (%s): %v", e.Key, e.Where, e.Err)
	}
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

// Load reads, merges and checks all settings. Every error is an [*Error].
func Load(source Source) (*Config, error) {
	layers, err := read(source)
	if err != nil {
		return nil, err
	}
	merged, where, err := merge(layers)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	for _, key := range keys {
		setting := Setting{Key: key, Value: merged.String(key.Name), Origin: OriginDefault}
		if from, ok := where[key.Name]; ok {
			setting.Origin, setting.Where = from.origin, from.where
		}
		c.settings = append(c.settings, setting)
		err := key.check(setting.Value)
		if err == nil {
			err = key.set(c, setting.Value)
		}
		if err != nil {
			return nil, &Error{Key: key.Name, Where: setting.Where, Err: err}
		}
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	return c, nil
}

// Settings returns each value with its origin, in the order of the table.
func (c *Config) Settings() []Setting { return slices.Clone(c.settings) }

// value is what one source says of one key.
type value struct {
	text   string
	origin Origin
	where  string
}

type layer map[string]value

func read(source Source) ([]layer, error) {
	var layers []layer
	if source.File != "" {
		file, err := readFile(source.File)
		if err != nil {
			return nil, err
		}
		layers = append(layers, file)
	}
	env, err := readEnv(source.Environ)
	if err != nil {
		return nil, err
	}
	flags := layer{}
	for name, text := range source.Flags {
		if _, ok := findKey(name); !ok {
			return nil, &Error{Key: name, Where: "flag --" + name, Err: unknownKey(name)}
		}
		flags[name] = value{text: text, origin: OriginFlag, where: "flag --" + name}
	}
	return append(layers, env, flags), nil
}

func merge(layers []layer) (*koanf.Koanf, map[string]value, error) {
	merged, where := koanf.New("."), map[string]value{}
	defaults := map[string]any{}
	for _, key := range keys {
		defaults[key.Name] = key.Default
	}
	all := []map[string]any{defaults}
	for _, l := range layers {
		texts := map[string]any{}
		for name, v := range l {
			texts[name] = v.text
		}
		all = append(all, texts)
		maps.Copy(where, l)
	}
	for _, texts := range all {
		if err := merged.Load(confmap.Provider(texts, "."), nil); err != nil {
			return nil, nil, &Error{Where: "merging the sources", Err: err}
		}
	}
	return merged, where, nil
}

// EnvPrefix stands before the name of every variable.
const EnvPrefix = "PENSTOCK_"

// EnvName is the variable of a key, such as PENSTOCK_LISTEN_PEER.
func EnvName(key string) string {
	return EnvPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// foreignEnv are variables with the prefix that are not settings of a node: those of brokerctl and of the tests, and what
// Kubernetes sets for a service that is called penstock.
func foreignEnv(name string) bool {
	switch name {
	case "PENSTOCK_BOOTSTRAP", "PENSTOCK_SAMPLE_LOGS", "PENSTOCK_PROFILE", "PENSTOCK_CONFIG", "PENSTOCK_PORT":
		return true
	default:
		return strings.HasPrefix(name, "PENSTOCK_SERVICE_") || strings.HasPrefix(name, "PENSTOCK_PORT_") ||
			strings.HasPrefix(name, "PENSTOCK_TEST_")
	}
}

func readEnv(environ []string) (layer, error) {
	byName := map[string]string{}
	for _, key := range keys {
		byName[EnvName(key.Name)] = key.Name
	}
	env := layer{}
	for _, line := range environ {
		name, text, ok := strings.Cut(line, "=")
		if !ok || !strings.HasPrefix(name, EnvPrefix) || foreignEnv(name) {
			continue
		}
		key, ok := byName[name]
		if !ok {
			near := nearest(name, slices.Sorted(maps.Keys(byName)))
			return nil, &Error{Key: name, Where: "variable " + name, Err: fmt.Errorf("no such setting; did you mean %s?", near)}
		}
		env[key] = value{text: text, origin: OriginEnv, where: "variable " + name}
	}
	return env, nil
}

// Environ is os.Environ; commands pass it to Load.
func Environ() []string { return os.Environ() }
