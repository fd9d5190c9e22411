package main

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// follow watches the objects of that name, and returns what waits until each of the
// clusters has been written to since: one watch costs the API server little, and certd
// nothing.
func (l *lab) follow(resource, name string) func(context.Context) error {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()}
	from, err := l.revision(resource, options)
	done, ctx, stop := make(chan error, 1), context.Background(), func() {}
	if err != nil {
		done <- err
	} else {
		ctx, stop = context.WithTimeout(ctx, 10*time.Minute)
		go func() {
			written := map[string]bool{}
			for len(written) < l.n && err == nil {
				options.ResourceVersion = from
				from, err = l.watch(ctx, resource, options, written)
			}
			done <- err
		}()
	}
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

// revision is where a watch begins that is to tell of what happens from now on.
func (l *lab) revision(resource string, options metav1.ListOptions) (string, error) {
	if resource == "secrets" {
		list, err := l.meters.api.CoreV1().Secrets("").List(context.Background(), options)
		return list.ResourceVersion, err
	}
	list, err := l.meters.api.CoreV1().ConfigMaps("").List(context.Background(), options)
	return list.ResourceVersion, err
}

// watch notes in which clusters something is written, until it is all of them, or the API
// server ends the watch, as it does where it is read too slowly: then another goes on where it ended.
func (l *lab) watch(ctx context.Context, resource string, options metav1.ListOptions, written map[string]bool) (last string, err error) {
	last = options.ResourceVersion
	var w watch.Interface
	if resource == "secrets" {
		w, err = l.meters.api.CoreV1().Secrets("").Watch(ctx, options)
	} else {
		w, err = l.meters.api.CoreV1().ConfigMaps("").Watch(ctx, options)
	}
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
