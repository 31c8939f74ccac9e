package broker

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestUnready(t *testing.T) {
	serving := vitals{
		started: true, broker: true, registered: true, silence: 100 * time.Millisecond, sessionTimeout: 3 * time.Second, metadata: true, stale: time.Second,
	}
	controller := vitals{started: true, metadata: true, stale: time.Second}
	with := func(v vitals, change func(v *vitals)) vitals {
		change(&v)
		return v
	}
	for name, c := range map[string]struct {
		vitals vitals
		want   []string
	}{
		"serving":                  {serving, nil},
		"controller":               {controller, nil},
		"recovering":               {vitals{}, []string{"STARTING"}},
		"stopped while recovering": {vitals{stopping: true}, []string{"STOPPING", "STARTING"}},
		"failed":                   {with(serving, func(v *vitals) { v.failure = errors.New("the disk failed") }), []string{"FAILED"}},
		"stopping":                 {with(serving, func(v *vitals) { v.stopping = true }), []string{"STOPPING"}},
		"not registered":           {with(serving, func(v *vitals) { v.registered, v.metadata = false, false }), []string{"NOT_REGISTERED", "NO_METADATA"}},
		"fenced":                   {with(serving, func(v *vitals) { v.fenced = true }), []string{"BROKER_FENCED"}},
		"silence within its bound": {with(serving, func(v *vitals) { v.silence = 3 * time.Second }), nil},
		"session lost":             {with(serving, func(v *vitals) { v.silence = 3*time.Second + 1 }), []string{"SESSION_LOST"}},
		"metadata within the bound": {
			with(serving, func(v *vitals) { v.stale = metadataStale }), nil,
		},
		"metadata stale": {with(serving, func(v *vitals) { v.stale = metadataStale + 1 }), []string{"METADATA_STALE"}},
		"cut off": {
			with(serving, func(v *vitals) { v.stale, v.silence = time.Minute, time.Minute }), []string{"SESSION_LOST", "METADATA_STALE"},
		},
		"controller alone": {with(controller, func(v *vitals) { v.stale = time.Minute }), []string{"METADATA_STALE"}},
		"controller without metadata": {
			with(controller, func(v *vitals) { v.metadata = false }), []string{"NO_METADATA"},
		},
	} {
		var codes []string
		for _, r := range c.vitals.unready() {
			codes = append(codes, r.Code)
			if len(r.Message) < 20 {
				t.Errorf("%s: %s says only %q", name, r.Code, r.Message)
			}
		}
		if !slices.Equal(codes, c.want) {
			t.Errorf("%s: %v, want %v", name, codes, c.want)
		}
	}
}
