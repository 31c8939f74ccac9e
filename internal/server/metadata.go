package server

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc"

	"github.com/penstock-io/penstock/api/gen/penstockv1"
	"github.com/penstock-io/penstock/internal/metadata"
	"github.com/penstock-io/penstock/internal/model"
)

// metadataService is penstock.v1.MetadataService.
type metadataService struct {
	penstockv1.UnimplementedMetadataServiceServer
	cache    *Cache
	quorum   Quorum
	stopping <-chan struct{}
}

// GetMetadata answers from the image in force.
func (s *metadataService) GetMetadata(
	ctx context.Context, req *penstockv1.GetMetadataRequest,
) (*penstockv1.GetMetadataResponse, error) {
	if err := Authorize(ctx, OperationDescribe, cluster()); err != nil {
		return nil, err
	}
	image := s.cache.Image()
	active, _ := s.quorum.Active()
	resp := &penstockv1.GetMetadataResponse{
		ClusterId: image.ClusterID().String(), ControllerId: int32(active), MetadataOffset: uint64(image.Offset()),
		Brokers: brokersOf(image, RequestOf(ctx).Listener),
	}
	if req.GetAllTopics() {
		for t := range image.Topics() {
			resp.Topics = append(resp.Topics, topicOf(t))
		}
		return resp, nil
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(req.GetTopics()))) {
		if t, ok := image.Topic(name); ok {
			resp.Topics = append(resp.Topics, topicOf(t))
		} else {
			resp.Topics = append(resp.Topics, missingTopic(name))
		}
	}
	return resp, nil
}

// WatchMetadata sends the selection, and then what changes in it.
func (s *metadataService) WatchMetadata(
	req *penstockv1.WatchMetadataRequest, stream grpc.ServerStreamingServer[penstockv1.WatchMetadataResponse],
) error {
	ctx := stream.Context()
	if err := Authorize(ctx, OperationDescribe, cluster()); err != nil {
		return err
	}
	w := watcher{all: req.GetAllTopics(), names: map[string]bool{}, listener: RequestOf(ctx).Listener}
	for _, name := range req.GetTopics() {
		w.names[name] = true
	}
	for {
		image, changed := s.cache.Watch()
		if image.Offset() > 0 || w.sent == nil {
			active, _ := s.quorum.Active()
			if frame := w.frame(image, active); frame != nil {
				if err := stream.Send(frame); err != nil {
					return err
				}
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return model.Errorf(model.CodeShuttingDown, "the broker is stopping: ask another one")
		}
	}
}

// watcher remembers what one client has been sent.
type watcher struct {
	all      bool
	names    map[string]bool
	listener string
	sent     *metadata.Image
}

// frame returns what is new in image, or nil. Unchanged topics are the same object in both images.
func (w *watcher) frame(image *metadata.Image, active model.NodeID) *penstockv1.WatchMetadataResponse {
	first, before := w.sent == nil, w.sent
	if first {
		before = metadata.Empty()
	}
	w.sent = image
	topics := w.changed(before, image, first)
	if !first && len(topics) == 0 && slices.Equal(before.Brokers(), image.Brokers()) {
		return nil
	}
	return &penstockv1.WatchMetadataResponse{
		ClusterId: image.ClusterID().String(), ControllerId: int32(active), MetadataOffset: uint64(image.Offset()),
		Brokers: brokersOf(image, w.listener), Topics: topics,
	}
}

func (w *watcher) changed(before, image *metadata.Image, first bool) []*penstockv1.TopicMetadata {
	var topics []*penstockv1.TopicMetadata
	for _, name := range w.selection(before, image) {
		was, existed := before.Topic(name)
		is, exists := image.Topic(name)
		switch {
		case exists && was != is:
			topics = append(topics, topicOf(is))
		case !exists && (existed || first):
			topics = append(topics, missingTopic(name))
		}
	}
	return topics
}

func (w *watcher) selection(before, image *metadata.Image) []string {
	if !w.all {
		return slices.Sorted(maps.Keys(w.names))
	}
	names := map[string]bool{}
	for t := range before.Topics() {
		names[t.Name] = true
	}
	for t := range image.Topics() {
		names[t.Name] = true
	}
	return slices.Sorted(maps.Keys(names))
}
