package kube

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"certd.internal/rotation"
)

var jobsKind = schema.GroupVersionResource{Group: "batch", Version: "v1", Resource: "jobs"}

// maxJobs bounds how many Jobs a census asks about that it does not know yet.
const maxJobs = 50

// nameCronJobs notes of Jobs which CronJob has made them. It tells people what there
// is to wait for, and nothing depends on it: where certd may not look, the Job is named
// alone. Who made a Job stays so, so that each is asked about once.
func (c *Cluster) nameCronJobs(ctx context.Context, p rotation.Proxies) {
	ctx, cancel := c.bound(ctx)
	defer cancel()
	c.mu.Lock()
	before := c.jobs
	c.mu.Unlock()
	known, asked := map[string]rotation.ObjectRef{}, 0
	for _, s := range p.Sets {
		for i := range s.Owners {
			o := &s.Owners[i]
			if o.Kind != "Job" {
				continue
			}
			name := o.Namespace + "/" + o.Name
			of, seen := before[name]
			if !seen && asked < maxJobs {
				asked++
				var err error
				if of, err = c.makerOf(ctx, o.Namespace, o.Name); err != nil {
					asked = maxJobs // nor the others
					c.log.Debug("which CronJob made a Job cannot be seen", "err", err)
				}
				seen = err == nil
			}
			if seen {
				o.Of, known[name] = of, of
			}
		}
	}
	c.mu.Lock()
	c.jobs = known
	c.mu.Unlock()
}

// makerOf is the CronJob that has made a Job; zero where none has.
func (c *Cluster) makerOf(ctx context.Context, namespace, name string) (rotation.ObjectRef, error) {
	job, err := c.meta.Resource(jobsKind).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return rotation.ObjectRef{}, nil
	}
	if err != nil {
		return rotation.ObjectRef{}, c.fail(call{verb: "get", resource: "jobs", name: name, in: namespace}, err)
	}
	by := metav1.GetControllerOfNoCopy(job)
	if by == nil || !isName(by.Kind) || !isName(by.Name) {
		return rotation.ObjectRef{}, nil
	}
	return rotation.ObjectRef{Kind: by.Kind, Name: by.Name}, nil
}
