package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// follow watches the objects of that name, and returns what waits until each of the
// clusters has been written to since: one watch costs the API server little, and certd
// nothing.
func (l *lab) follow(resource, name string) func(context.Context) error {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()}
	begin := func() (watch.Interface, error) {
		if resource == "secrets" {
			l, err := l.meters.api.CoreV1().Secrets("").List(context.Background(), options)
			if err != nil {
				return nil, err
			}
			options.ResourceVersion = l.ResourceVersion
		} else {
			l, err := l.meters.api.CoreV1().ConfigMaps("").List(context.Background(), options)
			if err != nil {
				return nil, err
			}
			options.ResourceVersion = l.ResourceVersion
		}
		if resource == "secrets" {
			return l.meters.api.CoreV1().Secrets("").Watch(context.Background(), options)
		}
		return l.meters.api.CoreV1().ConfigMaps("").Watch(context.Background(), options)
	}
	w, err := begin()
	return func(ctx context.Context) error {
		if err != nil {
			return err
		}
		defer w.Stop()
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
		written := map[string]bool{}
		for len(written) < l.n {
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s was written in %d of %d clusters: %w", name, len(written), l.n, context.Cause(ctx))
			case e, ok := <-w.ResultChan():
				if !ok || e.Type == watch.Error {
					return errors.New("the watch on " + name + " ended")
				}
				if o, ok := e.Object.(metav1.Object); ok {
					written[o.GetNamespace()] = true
				}
			}
		}
		return nil
	}
}
