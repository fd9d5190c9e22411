package main

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
)

// follow watches the objects of that name, and returns what waits until each of the
// clusters has been written to since: one watch costs the API server little, and certd
// nothing.
func (l *lab) follow(resource, name string) func(context.Context) error {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()}
	api := l.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: resource})
	ctx, stop := context.WithTimeout(context.Background(), 10*time.Minute)
	done := make(chan error, 1)
	list, err := api.List(ctx, options)
	if err == nil {
		options.ResourceVersion = list.ResourceVersion
	}
	go func() {
		written := map[string]bool{}
		for len(written) < l.n && err == nil {
			options.ResourceVersion, err = l.watch(ctx, api, options, written)
		}
		done <- err
	}()
	return func(ctx context.Context) error {
		defer stop()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-done:
			return err
		}
	}
}

// watch notes in which clusters something is written, until it is all of them, or the API
// server ends the watch, as it does where it is read too slowly: then another goes on where it ended.
func (l *lab) watch(ctx context.Context, api metadata.ResourceInterface, options metav1.ListOptions, written map[string]bool) (last string, err error) {
	last = options.ResourceVersion
	w, err := api.Watch(ctx, options)
	if err != nil {
		return last, err
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if e.Type == watch.Error {
			return last, apierrors.FromObject(e.Object)
		}
		o, ok := e.Object.(metav1.Object)
		if !ok {
			continue
		}
		last, written[o.GetNamespace()] = o.GetResourceVersion(), true
		if len(written) == l.n {
			return last, nil
		}
	}
	return last, ctx.Err()
}
