package resources

import (
	"errors"
	"strings"
	"testing"

	"github.com/penstock-io/penstock/internal/config"
)

func load(t *testing.T, flags map[string]string) *config.Config {
	t.Helper()
	cfg, err := config.Load(config.Source{Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestPlanMemory(t *testing.T) {
	const file = "/sys/fs/cgroup/memory.max"
	for name, c := range map[string]struct {
		limit int64
		found MemoryFound
		want  MemoryPlan
	}{
		"nothing":                 {0, MemoryFound{}, MemoryPlan{}},
		"control group":           {0, MemoryFound{Cgroup: 1000, CgroupFile: file}, MemoryPlan{Set: 900, Bound: 900, Origin: "90% of " + file}},
		"setting":                 {500, MemoryFound{Cgroup: 1000, CgroupFile: file}, MemoryPlan{Set: 500, Bound: 500, Origin: "memory.limit.bytes"}},
		"setting above the group": {5000, MemoryFound{Cgroup: 1000, CgroupFile: file}, MemoryPlan{Set: 5000, Bound: 1000, Origin: file}},
		"environment":             {500, MemoryFound{EnvSet: true, Env: 300, Cgroup: 1000, CgroupFile: file}, MemoryPlan{Bound: 300, Origin: "GOMEMLIMIT"}},
		"environment, off":        {500, MemoryFound{EnvSet: true, Cgroup: 1000, CgroupFile: file}, MemoryPlan{Bound: 1000, Origin: file}},
	} {
		got := PlanMemory(config.Memory{LimitBytes: c.limit}, c.found)
		if c.found.EnvSet && c.found.Env == 0 && c.found.Cgroup == 0 {
			c.want.Origin = "GOMEMLIMIT"
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestCheckMemory(t *testing.T) {
	defaults, small := load(t, nil), load(t, map[string]string{
		"limits.message.bytes": "1MiB", "limits.inflight.bytes": "4MiB", "cleaner.map.bytes": "1MiB",
	})
	controller := load(t, map[string]string{"roles": "controller"})
	for _, c := range []struct {
		cfg   *config.Config
		bound int64
		want  string // "", "scarce" or "too little"
	}{
		{defaults, 0, ""},
		{defaults, 1 << 30, ""},
		{defaults, 144 * mib, ""},
		{defaults, 144*mib - 1, "scarce"},
		{defaults, 80 * mib, "scarce"},
		{defaults, 80*mib - 1, "too little"},
		{small, 70 * mib, ""},
		{small, 35 * mib, "scarce"},
		{small, 34 * mib, "too little"},
		{controller, 64 * mib, ""},
		{controller, 32 * mib, "scarce"},
		{controller, 31 * mib, "too little"},
	} {
		warning, err := CheckMemory(c.cfg, MemoryPlan{Bound: c.bound, Origin: "somewhere"})
		if got := warning != ""; got != (c.want == "scarce") || errors.Is(err, ErrMemory) != (c.want == "too little") {
			t.Errorf("%d MiB: %q %v, want %q", c.bound/mib, warning, err, c.want)
		}
		if c.want == "too little" && !strings.Contains(err.Error(), "limits.message.bytes") {
			t.Errorf("it does not say what to do: %v", err)
		}
	}
}

func TestPlanFiles(t *testing.T) {
	defaults, controller := load(t, nil), load(t, map[string]string{"roles": "controller"})
	fixed := load(t, map[string]string{"storage.open.files": "5000"})
	large := load(t, map[string]string{"gossip.seeds": strings.TrimSuffix(strings.Repeat("h:1,", 100), ",")})
	for name, c := range map[string]struct {
		cfg   *config.Config
		limit int64
		open  int
		fails bool
		warns bool
	}{
		"no limit":                     {defaults, 0, goodOpen, false, false},
		"plenty":                       {defaults, 1 << 20, mostOpen, false, false},
		"as recommended":               {defaults, 5232, 2496, false, false},
		"one less":                     {defaults, 5231, 2495, false, true},
		"the usual soft limit":         {defaults, 1024, 392, false, true},
		"the least":                    {defaults, 496, leastOpen, false, true},
		"less":                         {defaults, 495, 0, true, false},
		"a controller needs few":       {controller, 112, 0, false, false},
		"a controller needs some":      {controller, 111, 0, true, false},
		"a number that is set":         {fixed, 8192, 5000, false, true},
		"a number that cannot be kept": {fixed, 5239, 0, true, false},
		"no limit and a number":        {fixed, 0, 5000, false, false},
		"a large cluster":              {large, 2048, 256, false, true},
		"a large cluster, too few":     {large, 2047, 0, true, false},
	} {
		plan, err := PlanFiles(c.cfg, c.limit)
		if errors.Is(err, ErrFiles) != c.fails || plan.OpenFiles != c.open || (plan.Warning != "") != c.warns {
			t.Errorf("%s: %+v %v, want %+v", name, plan, err, c)
		}
		if err != nil && !strings.Contains(err.Error(), "ulimit") {
			t.Errorf("%s does not say what to do: %v", name, err)
		}
	}
}
