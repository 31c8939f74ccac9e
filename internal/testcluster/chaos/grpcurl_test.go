//go:build unix

package chaos

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/status"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
)

// errorDetail is the typed detail of a gRPC status.
func errorDetail(err error) *penstockv1.Error {
	for _, detail := range status.Convert(err).Details() {
		if typed, ok := detail.(*penstockv1.Error); ok {
			return typed
		}
	}
	return nil
}

// grpcurl is the tool of the version pinned in tools/: as make verify has left it, or built.
var grpcurl = sync.OnceValues(func() (string, error) {
	path, err := filepath.Abs(filepath.Join(repository, ".bin", "grpcurl"))
	if err != nil || exists(path) {
		return path, err
	}
	path = filepath.Join(buildDir, "grpcurl")
	cmd := exec.Command("go", "build", "-C", filepath.Join(repository, "tools"), "-o", path, "github.com/fullstorydev/grpcurl/cmd/grpcurl")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build grpcurl: %w\n%s", err, out)
	}
	return path, nil
})

// TestGrpcurl talks to the cluster with a tool that knows nothing but what reflection tells: it lists topics, finds the
// leader, appends a plain record and fetches it.
func TestGrpcurl(t *testing.T) {
	thePrograms(t)
	tool, err := grpcurl()
	if err != nil {
		t.Fatal(err)
	}
	c := startDev(t, 3)
	c.createTopic("plain", 1, 3)
	call := func(address, method, request string, answer any) {
		t.Helper()
		r := run(t, t.TempDir(), nil, "", tool, "-plaintext", "-d", request, address, method)
		if r.code != 0 {
			t.Fatal(r)
		}
		if err := json.Unmarshal([]byte(r.out), answer); err != nil {
			t.Fatalf("%v\n%v", err, r)
		}
	}
	services := run(t, t.TempDir(), nil, "", tool, "-plaintext", c.address(1), "list")
	for _, want := range []string{"penstock.v1.ProducerService", "penstock.v1.ConsumerService", "penstock.v1.AdminService", "grpc.health.v1.Health"} {
		if !strings.Contains(services.out, want) {
			t.Errorf("want %s:\n%v", want, services)
		}
	}
	if strings.Contains(services.out, "internal") {
		t.Errorf("internal services are shown to clients:\n%v", services)
	}
	var topics struct{ Topics []struct{ Name string } }
	eventually(t, time.Minute, "node 1 has heard of the topic", func() error {
		call(c.address(1), "penstock.v1.AdminService/ListTopics", "{}", &topics)
		if len(topics.Topics) != 1 || topics.Topics[0].Name != "plain" {
			return fmt.Errorf("topics: %+v", topics)
		}
		return nil
	})

	var metadata struct {
		Brokers []struct {
			ID   int
			Host string
			Port int
		}
		Topics []struct{ Partitions []struct{ LeaderID int } }
	}
	call(c.address(1), "penstock.v1.MetadataService/GetMetadata", `{"topics":["plain"]}`, &metadata)
	leader := ""
	for _, b := range metadata.Brokers {
		if len(metadata.Topics) == 1 && b.ID == metadata.Topics[0].Partitions[0].LeaderID {
			leader = net.JoinHostPort(b.Host, fmt.Sprint(b.Port))
		}
	}
	if leader == "" {
		t.Fatalf("no leader in %+v", metadata)
	}

	encoded := base64.StdEncoding.EncodeToString([]byte("typed by hand"))
	var produced struct {
		Receipt *struct{ Count, LeaderEpoch, Isr, Acked, Fsynced int }
		Error   any
	}
	call(leader, "penstock.v1.ProducerService/ProduceOnce",
		`{"topic":"plain","acks":"ACKS_ALL","records":[{"value":"`+encoded+`"}]}`, &produced)
	if r := produced.Receipt; r == nil || r.Count != 1 || r.Isr != 3 || r.Acked < 2 || r.Fsynced != r.Acked {
		t.Errorf("receipt: %+v", produced)
	}
	var fetched struct {
		Partitions []struct {
			HighWatermark string
			Error         any
			Records       []struct{ Value string }
		}
	}
	call(leader, "penstock.v1.ConsumerService/FetchOnce",
		`{"partitions":[{"topic":"plain","partition":0,"offset":0}],"max_wait_ms":1000,"max_bytes":100000,"format":"FETCH_FORMAT_RECORDS"}`, &fetched)
	if len(fetched.Partitions) != 1 || len(fetched.Partitions[0].Records) != 1 || fetched.Partitions[0].Records[0].Value != encoded {
		t.Errorf("fetched: %+v", fetched)
	}
}
