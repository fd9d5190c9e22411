package kube

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"certd.internal/rotation"
)

// maxNote is how long an Event's note may be (events.k8s.io/v1).
const maxNote = 1024

// Event implements rotation.Cluster with an Event of events.k8s.io/v1 about
// the object; kubectl describe shows it beside the object.
func (c *Cluster) Event(ctx context.Context, e rotation.Event) error {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	now := time.Now()
	note := e.Message
	if len(note) > maxNote {
		note = note[:maxNote-4] + " ..."
	}
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	on := c.managed(e.Object)
	if e.Namespace != "" || e.Object != rotation.BundleObject {
		on.resource = "secrets" // the issuer's, or a webhook's
	}
	if e.Namespace != "" {
		on.in = e.Namespace
	}
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "ConfigMap", Namespace: on.in, Name: on.name}
	if on.resource == "secrets" {
		about.Kind = "Secret"
	}
	last := c.recall(on)
	about.UID, about.ResourceVersion = types.UID(last.uid), last.revision
	event := &eventsv1.Event{
		ObjectMeta:          metav1.ObjectMeta{Name: e.Object + "." + strconv.FormatInt(now.UnixNano(), 16), Namespace: on.in},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "certd",
		ReportingInstance:   "certd",
		Action:              e.Reason,
		Reason:              e.Reason,
		Type:                kind,
		Note:                note,
		Regarding:           about,
	}
	if _, err := c.events.Events(on.in).Create(ctx, event, metav1.CreateOptions{FieldManager: FieldManager}); err != nil {
		return fmt.Errorf("tell of %s: %w", e.Reason, c.fail(call{verb: "create", resource: "events", in: on.in, write: true}, err))
	}
	return nil
}
