package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"
	"time"
)

// What the image says of itself; the Dockerfiles say the same, and a test holds them together.
const (
	imageUID  = 65532
	imageData = "/var/lib/penstock"
	imageBin  = "/usr/bin"
)

var (
	imagePorts = []string{"9092", "9093", "9094", "9095", "9096"}
	imageEnv   = []string{"PATH=" + imageBin, "PENSTOCK_DATA_DIR=" + imageData}
	imageCmd   = []string{"broker"}
)

const imageStop = "SIGTERM"

// imageConfig is the configuration of an image, as engines read it.
type imageConfig struct {
	Architecture string           `json:"architecture"`
	Config       containerConfig  `json:"config"`
	Created      time.Time        `json:"created"`
	History      []map[string]any `json:"history"`
	OS           string           `json:"os"`
	RootFS       struct {
		DiffIDs []string `json:"diff_ids"`
		Type    string   `json:"type"`
	} `json:"rootfs"`
}

type containerConfig struct {
	Cmd          []string            `json:"Cmd"`
	Env          []string            `json:"Env"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts"`
	Labels       map[string]string   `json:"Labels"`
	StopSignal   string              `json:"StopSignal"`
	User         string              `json:"User"`
	Volumes      map[string]struct{} `json:"Volumes"`
	WorkingDir   string              `json:"WorkingDir"`
}

// tag is the version as tags of images may be written.
func (r release) tag() string { return "penstock:" + strings.ReplaceAll(r.version, "+", "-") }

// image makes an archive for `docker load`: one layer with the binaries and the empty data directory, nothing else.
func (r release) image(dir, arch string) (name string, data []byte, err error) {
	bin, err := programs(dir, strings.TrimPrefix(imageBin, "/")+"/")
	if err != nil {
		return "", nil, err
	}
	entries := []entry{{name: "usr/", mode: 0o755}, {name: "usr/bin/", mode: 0o755}}
	for _, f := range bin {
		entries = append(entries, entry{name: f.name, mode: f.mode, data: f.data})
	}
	entries = append(entries, entry{name: "var/", mode: 0o755}, entry{name: "var/lib/", mode: 0o755},
		entry{name: strings.TrimPrefix(imageData, "/") + "/", mode: 0o750, uid: imageUID, gid: imageUID})
	layer, err := tarred(entries, r.time)
	if err != nil {
		return "", nil, err
	}
	config, err := json.Marshal(r.imageConfig(arch, digest(layer)))
	if err != nil {
		return "", nil, err
	}
	configName, layerName := digest(config)+".json", digest(layer)+".tar"
	manifest, err := json.Marshal([]map[string]any{{
		"Config": configName, "Layers": []string{layerName}, "RepoTags": []string{r.tag()},
	}})
	if err != nil {
		return "", nil, err
	}
	data, err = tarGz([]entry{
		{name: configName, mode: 0o644, data: config},
		{name: layerName, mode: 0o644, data: layer},
		{name: "manifest.json", mode: 0o644, data: append(manifest, '\n')},
	}, r.time)
	return "penstock-" + r.version + "-image-linux-" + arch + ".tar.gz", data, err
}

func (r release) imageConfig(arch, layer string) imageConfig {
	user := strconv.Itoa(imageUID) + ":" + strconv.Itoa(imageUID)
	c := imageConfig{Architecture: arch, OS: "linux", Created: r.time}
	c.Config = containerConfig{
		Cmd: imageCmd, Env: imageEnv, ExposedPorts: map[string]struct{}{}, StopSignal: imageStop, User: user,
		Volumes: map[string]struct{}{imageData: {}}, WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.version": r.version, "org.opencontainers.image.revision": r.revision,
		},
	}
	for _, port := range imagePorts {
		c.Config.ExposedPorts[port+"/tcp"] = struct{}{}
	}
	c.History = []map[string]any{{"created": r.time, "created_by": "penstock " + r.version}}
	c.RootFS.Type, c.RootFS.DiffIDs = "layers", []string{"sha256:" + layer}
	return c
}

// digest is the SHA-256 of data in hexadecimal digits.
func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
