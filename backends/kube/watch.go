package kube

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"

	"certd.internal/rotation"
)

// How long a watch waits before it connects again: at once after the server
// ended it in good order, then ever longer.
const (
	retryMin = 250 * time.Millisecond
	retryMax = 30 * time.Second
	// goodFor is how long a watch must have stood to start over at retryMin, where it told of
	// anything; silentFor where it did not.
	goodFor   = 5 * time.Second
	silentFor = time.Minute
	// firstEvent is how long a watch that stands takes at most to tell of an object that there is.
	firstEvent = 2 * time.Second
	// eventPause lies between two events that are read: all that they tell is to look.
	eventPause = 100 * time.Millisecond
)

// groups are the API groups and versions of what is watched, "" and "v1" but for
// these.
var groups = map[string]schema.GroupVersion{
	mutatingResource:   admission,
	validatingResource: admission,
	apiServiceResource: registration,
}

// Watch implements rotation.Cluster: one watch per managed object and one on
// the namespace, each by name, which is what the shipped RBAC allows. They ask
// for metadata alone, so that no private key travels for them.
//
// Objects of webhooks are watched whether they exist or not; their Secrets from
// when Observe has seen in which namespace they are.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	ctx = quiet(ctx)
	var wg sync.WaitGroup
	follow := func(r ref) { wg.Go(func() { c.follow(ctx, r, changed) }) }
	follow(c.managed(rotation.IssuerObject))
	follow(c.managed(rotation.BundleObject))
	follow(c.around())
	for _, spec := range c.cfg.Webhooks {
		for _, object := range spec.Objects {
			if kind, ok := kinds[object.Kind]; ok {
				follow(ref{kind.Resource, "", object.Name})
			}
		}
		wg.Go(func() { c.followSecret(ctx, spec, changed) })
	}
	wg.Wait()
	return ctx.Err()
}

// followSecret keeps a watch on the Secret of a webhook, wherever Observe last
// saw that it is.
func (c *Cluster) followSecret(ctx context.Context, spec rotation.WebhookSpec, changed func()) {
	for ctx.Err() == nil {
		here, moved := c.home(spec.Name)
		watching, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		if here != "" {
			wg.Go(func() { c.follow(watching, ref{"secrets", here, spec.Secret}, changed) })
		}
		for now := here; now == here && ctx.Err() == nil; now, moved = c.home(spec.Name) {
			select {
			case <-ctx.Done():
			case <-moved:
			}
		}
		leave()
		wg.Wait()
	}
}

// follow keeps one watch going until ctx ends.
func (c *Cluster) follow(ctx context.Context, r ref, changed func()) {
	version, ok := groups[r.resource]
	if !ok {
		version = schema.GroupVersion{Version: "v1"}
	}
	api := c.meta.Resource(version.WithResource(r.resource)).Namespace(r.in)
	wait, last := retryMin, ""
	for ctx.Err() == nil {
		begun := time.Now()
		told, err := c.watchOnce(ctx, api, r, changed)
		if ctx.Err() != nil {
			return
		}
		if text := c.watchProblem(r, err); text != last {
			last = text
			if text != "" {
				c.log.Warn("watch does not stand; changes are found by looking", "object", r.name, "err", text)
			}
		}
		if stood := time.Since(begun); stood > silentFor || told && stood > goodFor {
			wait = retryMin
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, retryMax)
	}
}

func (c *Cluster) watchProblem(r ref, err error) string {
	if err == nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return ""
	}
	return c.fail(r.call("watch"), err).Error()
}

// watchOnce runs one watch to its end. It starts at whatever is there by then:
// no resourceVersion is carried over, so none can be too old, and the server begins with
// the object as it is. told says whether there was any event.
func (c *Cluster) watchOnce(ctx context.Context, api metadata.ResourceInterface, r ref, changed func()) (told bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The answer's header must come in time; the stream may then last.
	late := time.AfterFunc(c.cfg.RequestTimeout, cancel)
	w, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, r.name).String()})
	late.Stop()
	if err != nil {
		return false, err
	}
	defer w.Stop()
	c.log.Debug("watch stands", "object", r.name)
	return c.tell(ctx, w.ResultChan(), r, changed)
}

// tell passes on what is news. Of an object that is not there, none comes: that it has
// gone, while no watch stood, is found where the last look has seen it.
func (c *Cluster) tell(ctx context.Context, events <-chan watch.Event, r ref, changed func()) (told bool, err error) {
	nothing := time.NewTimer(firstEvent)
	defer nothing.Stop()
	for {
		select {
		case <-ctx.Done():
			return told, nil
		case <-nothing.C:
			if c.news(r, "") {
				changed()
			}
			continue
		case e, open := <-events:
			if !open {
				return told, nil
			}
			nothing.Stop()
			told = true
			switch e.Type {
			case watch.Bookmark:
			case watch.Error:
				return told, apierrors.FromObject(e.Object)
			default:
				if c.news(r, c.revisionIn(r, e)) {
					changed()
				}
			}
		}
		select {
		case <-ctx.Done():
			return told, nil
		case <-time.After(eventPause):
		}
	}
}

// revisionIn is the object's, as an event tells of it.
func (c *Cluster) revisionIn(r ref, e watch.Event) string {
	m, ok := e.Object.(*metav1.PartialObjectMetadata)
	switch {
	case e.Type == watch.Deleted:
		return ""
	case r == c.around():
		return present
	case !ok:
		return "unread"
	}
	return m.ResourceVersion
}

// news says whether certd has yet to see a revision of an object ("": that it does not
// exist). A look and a write that are under way are waited for: the event may be there
// before their answers. Where the last look failed everything is news, since the cluster
// answers again.
func (c *Cluster) news(r ref, revision string) bool {
	c.looking.Lock()
	defer c.looking.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	last, seen := c.known[r]
	return !seen || c.unseen || last.revision != revision
}
