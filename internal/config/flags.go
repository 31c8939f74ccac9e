package config

import (
	"errors"
	"maps"

	"github.com/spf13/pflag"
)

// Flags are the settings that were given on a command line. It is made by [AddFlags].
type Flags struct{ values map[string]string }

// AddFlags adds one flag a key to set. Parsing fails where a flag is given twice.
func AddFlags(set *pflag.FlagSet) *Flags {
	flags := &Flags{values: map[string]string{}}
	for _, key := range keys {
		set.Var(&flagValue{key: key, flags: flags}, key.Name, key.Doc)
	}
	return flags
}

// AddFileFlag adds --config, the name of the configuration file, which is fallback where it is not given. Parsing fails where it is given twice.
func AddFileFlag(set *pflag.FlagSet, file *string, fallback string) {
	*file = fallback
	set.Var(&fileFlag{file: file}, "config", "configuration file, YAML")
}

type fileFlag struct {
	file  *string
	given bool
}

// String is the name in force.
func (f *fileFlag) String() string {
	if f.file == nil {
		return ""
	}
	return *f.file
}

// Set keeps the name.
func (f *fileFlag) Set(text string) error {
	if f.given {
		return errors.New("it is given twice: keep one")
	}
	*f.file, f.given = text, true
	return nil
}

// Type is the kind of the value.
func (f *fileFlag) Type() string { return string(KindPath) }

// Values returns what was given, by key.
func (f *Flags) Values() map[string]string { return maps.Clone(f.values) }

type flagValue struct {
	key   Key
	flags *Flags
}

// String is the value given, else the default; pflag shows it in the usage.
func (v *flagValue) String() string {
	if v.flags == nil {
		return ""
	}
	if text, ok := v.flags.values[v.key.Name]; ok {
		return text
	}
	return v.key.Default
}

// Set keeps the value; it is checked by Load.
func (v *flagValue) Set(text string) error {
	if _, ok := v.flags.values[v.key.Name]; ok {
		return errors.New("it is given twice: keep one")
	}
	v.flags.values[v.key.Name] = text
	return nil
}

// Type is the kind of the value.
func (v *flagValue) Type() string { return string(v.key.Kind) }
