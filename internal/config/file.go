package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds what is read of a named file.
const maxFileBytes = 1 << 20

// readFile reads a YAML file of settings. Keys may be written flat (listen.peer: ...) or nested, each once.
func readFile(path string) (layer, error) {
	fail := func(err error) (layer, error) { return nil, &Error{Where: path, Err: err} }
	text, _, err := readNamed(path)
	if err != nil {
		return fail(err)
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(text)))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return layer{}, nil
	} else if err != nil {
		return fail(err)
	}
	if err := decoder.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fail(errors.New("it has more than one YAML document: keep one"))
	}
	root := document.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return layer{}, nil
	}
	if root.Kind != yaml.MappingNode {
		return fail(errors.New("it is no list of settings: write lines of key: value"))
	}
	into := layer{}
	return into, flatten(path, "", root, into)
}

func flatten(path, prefix string, node *yaml.Node, into layer) error {
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, content := node.Content[i], node.Content[i+1]
		key := prefix + name.Value
		where := fmt.Sprintf("%s line %d", path, name.Line)
		if content.Kind == yaml.MappingNode {
			if !isPrefix(key + ".") {
				return &Error{Key: key, Where: where, Err: unknownKey(key)}
			}
			if err := flatten(path, key+".", content, into); err != nil {
				return err
			}
			continue
		}
		if _, ok := findKey(key); !ok {
			return &Error{Key: key, Where: where, Err: unknownKey(key)}
		}
		if before, ok := into[key]; ok {
			return &Error{Key: key, Where: where, Err: fmt.Errorf("it stands twice, first at %s: keep one", before.where)}
		}
		text, err := scalar(content)
		if err != nil {
			return &Error{Key: key, Where: where, Err: err}
		}
		into[key] = value{text: text, origin: OriginFile, where: where}
	}
	return nil
}

func scalar(node *yaml.Node) (string, error) {
	switch node.Kind {
	case yaml.ScalarNode:
		if node.Tag == "!!null" {
			return "", errors.New("it has no value: give one, or leave the line out")
		}
		return node.Value, nil
	case yaml.SequenceNode:
		items := make([]string, 0, len(node.Content))
		for _, item := range node.Content {
			if item.Kind != yaml.ScalarNode || strings.Contains(item.Value, ",") {
				return "", fmt.Errorf("line %d: an item of the list is no plain value", item.Line)
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	case yaml.DocumentNode, yaml.MappingNode, yaml.AliasNode:
		return "", errors.New("it is neither a value nor a list")
	default:
		return "", errors.New("it is neither a value nor a list")
	}
}

func isPrefix(prefix string) bool {
	for _, key := range keys {
		if strings.HasPrefix(key.Name, prefix) {
			return true
		}
	}
	return false
}

// readNamed reads a file that the operator named; open says that everybody on the machine may read or write it.
func readNamed(path string) (_ []byte, open bool, err error) {
	file, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, false, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	if err != nil {
		return nil, false, err
	}
	if len(text) > maxFileBytes {
		return nil, false, fmt.Errorf("%s is larger than %d bytes", path, maxFileBytes)
	}
	return text, runtime.GOOS != "windows" && info.Mode().Perm()&0o006 != 0, nil
}

// gossipKeyBytes is the size of a key for AES-256.
const gossipKeyBytes = 32

func readKey(path string) (_ []byte, open bool, err error) {
	raw, open, err := readNamed(path)
	if err != nil || len(raw) == gossipKeyBytes {
		return raw, open, err
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(raw)))
	if err != nil || len(key) != gossipKeyBytes {
		return nil, false, fmt.Errorf("%s holds no key: it needs %d raw bytes or %d hexadecimal digits",
			path, gossipKeyBytes, 2*gossipKeyBytes)
	}
	return key, open, nil
}
