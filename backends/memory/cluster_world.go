package memory

import (
	"maps"
	"slices"
	"time"

	"certd.internal/rotation"
)

// What tests and the simulation do to a cluster from outside. None of it
// passes through faults.

// Edit changes an object as writer would, creating it if need be.
func (c *Cluster) Edit(name, writer string, edit func(data map[string][]byte, marks *rotation.Marks)) {
	c.outside(func() {
		o := c.objects[name]
		if o == nil {
			o = &object{data: map[string][]byte{}}
			c.objects[name] = o
		}
		edit(o.data, &o.marks)
		o.writers = append([]rotation.Writer{{Name: writer, At: time.Now()}}, o.writers...)
		c.stored(name)
	})
}

// Delete removes an object; one that is not there is left so.
func (c *Cluster) Delete(name string) {
	c.outside(func() {
		if c.objects[name] != nil {
			delete(c.objects, name)
			c.stored(name)
		}
	})
}

// DeleteNamespace removes the namespace with all that is in it.
func (c *Cluster) DeleteNamespace() {
	c.outside(func() {
		clear(c.objects)
		c.namespace = false
		c.stored("")
	})
}

// SetClockSkew moves the cluster's clock against certd's.
func (c *Cluster) SetClockSkew(skew time.Duration) {
	c.outside(func() { c.skew = skew })
}

func (c *Cluster) outside(change func()) {
	_ = c.change(func() error { change(); return nil }) // returns what the function returns: nil
}

// Data returns a copy of an object's data, private key included; nil if the
// object does not exist.
func (c *Cluster) Data(name string) map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data(name)
}

// Writes counts the writes by certd that changed something, by object and
// "namespace".
func (c *Cluster) Writes() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.writes)
}

// Calls counts the calls, failed ones included.
func (c *Cluster) Calls() map[Call]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.calls)
}

// Events returns the events told so far, oldest first.
func (c *Cluster) Events() []rotation.Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}
