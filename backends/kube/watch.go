package kube

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/watch"

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

// Watch implements rotation.Cluster: one watch per managed object, by name, which is what
// the shipped RBAC allows. They ask for metadata alone, so that no private key travels for
// them. The namespace is watched while it is not there: where it goes, so do the objects in it.
//
// Objects of webhooks are watched whether they exist or not; their Secrets from
// when Observe has seen in which namespace they are.
func (c *Cluster) Watch(ctx context.Context, changed func()) error {
	ctx = quiet(ctx)
	var wg sync.WaitGroup
	follow := func(r ref) { wg.Go(func() { c.follow(ctx, r, changed) }) }
	follow(c.managed(rotation.IssuerObject))
	follow(c.managed(rotation.BundleObject))
	for _, spec := range c.cfg.Webhooks {
		for _, object := range spec.Objects {
			if kind, ok := kinds[object.Kind]; ok {
				follow(ref{kind.Resource, "", object.Name})
			}
		}
		wg.Go(func() { c.followSight(ctx, func() ref { return c.home(spec) }, changed) })
	}
	c.followSight(ctx, c.awaited, changed)
	wg.Wait()
	return ctx.Err()
}

// followSight keeps a watch on the object that what Observe last saw says is to be watched;
// zero: on none.
func (c *Cluster) followSight(ctx context.Context, object func() ref, changed func()) {
	sight := func() (ref, <-chan struct{}) {
		c.mu.Lock()
		defer c.mu.Unlock()
		return object(), c.moved
	}
	for ctx.Err() == nil {
		here, moved := sight()
		watching, leave := context.WithCancel(ctx)
		var wg sync.WaitGroup
		if here != (ref{}) {
			wg.Go(func() { c.follow(watching, here, changed) })
		}
		for now := here; now == here && ctx.Err() == nil; now, moved = sight() {
			select {
			case <-ctx.Done():
			case <-moved:
			}
		}
		leave()
		wg.Wait()
	}
}

// home is the Secret of a webhook, wherever Observe last saw that it is; the caller holds mu.
func (c *Cluster) home(spec rotation.WebhookSpec) ref {
	in := c.sights[spec.Name].namespace
	if in == "" {
		return ref{}
	}
	return ref{"secrets", in, spec.Secret}
}

// awaited is the namespace, while Observe last saw that it is not there; the caller holds mu.
func (c *Cluster) awaited() ref {
	if last, seen := c.known[c.around()]; !seen || last.revision == present {
		return ref{}
	}
	return c.around()
}

// watchAnew has what is watched asked for again; the caller holds mu.
func (c *Cluster) watchAnew() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// follow keeps one watch going until ctx ends. Its goroutine waits in events.wait nearly
// always, with little below it, so that its stack can shrink: there are three for each cluster.
func (c *Cluster) follow(ctx context.Context, r ref, changed func()) {
	f := &follower{c: c, about: r, changed: changed, pause: retryMin}
	for f.begin(ctx) {
		for f.events.wait() && f.tell(ctx) {
		}
		f.end(ctx)
	}
}

// follower is one watch after another on one object.
type follower struct {
	c       *Cluster
	about   ref
	changed func()
	pause   time.Duration // before the next one
	problem string        // as last logged

	// Of the one that there is now:
	begun  time.Time
	cancel context.CancelFunc
	events events
	told   bool        // there was an event
	late   *time.Timer // looks where none comes
}

// begin begins a watch; false: ctx has ended. It starts at whatever is there by then:
// no resourceVersion is carried over, so none can be too old, and the server begins with
// the object as it is.
func (f *follower) begin(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	f.begun, f.told = time.Now(), false
	ctx, f.cancel = context.WithCancel(ctx)
	// The answer's header must come in time; the stream may then last.
	late := time.AfterFunc(f.c.cfg.RequestTimeout, f.cancel)
	stream, err := f.c.core.RESTClient().Get().AbsPath(f.about.collection()).Param("watch", "true").
		Param("fieldSelector", fields.OneTermEqualSelector(metav1.ObjectNameField, f.about.name).String()).
		SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").Stream(ctx)
	late.Stop()
	f.events = events{stream: stream, err: err}
	if err == nil {
		f.c.log.Debug("watch stands", "object", f.about.name)
		f.expect(ctx)
	}
	return true
}

// expect has the cluster looked at where no event comes. Of an object that is not there,
// none does: that it has gone, while no watch stood, is found where the last look has seen it.
func (f *follower) expect(ctx context.Context) {
	f.late = time.AfterFunc(firstEvent, func() {
		if f.c.news(f.about, "") && ctx.Err() == nil {
			f.changed()
		}
	})
}

// tell reads an event that has begun and passes on what is news; false: the watch is over.
func (f *follower) tell(ctx context.Context) bool {
	e, ok := f.events.read()
	if !ok {
		return false
	}
	f.late.Stop()
	f.told = true
	switch e.Type {
	case watch.Bookmark:
	case watch.Error:
		f.events.err = e.problem()
		return false
	default:
		if f.c.news(f.about, f.c.revisionIn(f.about, e)) {
			f.changed()
		}
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(eventPause):
		return true
	}
}

// end ends the watch, says why it does not stand, and waits before the next.
func (f *follower) end(ctx context.Context) {
	f.cancel()
	if f.events.stream != nil {
		f.late.Stop()
		f.events.stream.Close()
	}
	if ctx.Err() != nil {
		return
	}
	if text := f.c.watchProblem(f.about, f.events.err); text != f.problem {
		f.problem = text
		if text != "" {
			f.c.log.Warn("watch does not stand; changes are found by looking", "object", f.about.name, "err", text)
		}
	}
	if stood := time.Since(f.begun); stood > silentFor || f.told && stood > goodFor {
		f.pause = retryMin
	}
	select {
	case <-ctx.Done():
	case <-time.After(f.pause):
	}
	f.pause = min(2*f.pause, retryMax)
}

// watchProblem is "" for a watch that ended as watches do.
func (c *Cluster) watchProblem(r ref, err error) string {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || err == nil || net.IsProbableEOF(err) || net.IsTimeout(err) ||
		apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return ""
	}
	return c.fail(r.call("watch"), err).Error()
}

// collection is the path of all that the object is one of.
func (r ref) collection() string {
	path := "/api/v1"
	if version, ok := groups[r.resource]; ok {
		path = "/apis/" + version.String()
	}
	if r.in != "" {
		path += "/namespaces/" + r.in
	}
	return path + "/" + r.resource
}

// revisionIn is the object's, as an event tells of it.
func (c *Cluster) revisionIn(r ref, e event) string {
	switch {
	case e.Type == watch.Deleted:
		return ""
	case r == c.around():
		return present
	}
	return cmp.Or(e.revision(), "unread")
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
