package memory

import (
	"maps"
	"slices"
	"strings"
	"time"

	"certd.internal/rotation"
)

// What tests and the simulation do to a cluster from outside. None of it
// passes through faults. An object is named by its name in Linkerd's namespace,
// as "namespace/name" elsewhere, and as rotation.ObjectRef.String where it is in
// no namespace.

// Edit changes an object as writer would, creating it if need be.
func (c *Cluster) Edit(name, writer string, edit func(data map[string][]byte, marks *rotation.Marks)) {
	c.outside(func() { c.edit(name, writer, edit) })
}

func (c *Cluster) edit(name, writer string, edit func(data map[string][]byte, marks *rotation.Marks)) {
	name = c.canonical(name)
	o := c.objects[name]
	if o == nil {
		o = &object{data: map[string][]byte{}}
		c.objects[name] = o
	}
	edit(o.data, &o.marks)
	o.writers = append([]rotation.Writer{{Name: writer, At: c.now()}}, o.writers...)
	c.stored(name, writer)
}

// canonical lets an object of Linkerd's namespace be named in full, too.
func (c *Cluster) canonical(name string) string {
	return strings.TrimPrefix(name, c.cfg.Namespace+"/")
}

// SetKeeper has another program be set up to write an object; nil: none is.
func (c *Cluster) SetKeeper(name string, k *rotation.Keeper) {
	c.outside(func() {
		if o := c.objects[c.canonical(name)]; o != nil {
			o.keeper = k
			c.revision++
		}
	})
}

// Delete removes an object; one that is not there is left so.
func (c *Cluster) Delete(name string) {
	c.outside(func() { c.remove(name, ByWorld) })
}

func (c *Cluster) remove(name, by string) {
	name = c.canonical(name)
	if c.objects[name] != nil {
		delete(c.objects, name)
		c.stored(name, by)
	}
}

// DeleteNamespace removes Linkerd's namespace with all that is in it.
func (c *Cluster) DeleteNamespace() {
	c.outside(func() {
		maps.DeleteFunc(c.objects, func(key string, _ *object) bool { return !strings.Contains(key, "/") })
		c.namespace = false
		if c.hooks != nil {
			c.hooks.evict(c.cfg.Namespace)
		}
		c.stored("", ByWorld)
	})
}

// SetClockSkew moves the cluster's clock against certd's.
func (c *Cluster) SetClockSkew(skew time.Duration) {
	c.outside(func() {
		c.skew = skew
		if c.hooks != nil {
			c.hooks.skew = skew
			c.hooks.touch(ByWorld)
		}
	})
}

func (c *Cluster) outside(change func()) {
	_ = c.change(func() error { change(); return nil }) // returns what the function returns: nil
}

// Data returns a copy of an object's data, private key included; nil if the
// object does not exist.
func (c *Cluster) Data(name string) map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data(c.canonical(name))
}

// Writes counts the writes by certd that changed something, by object (a
// webhook's Secret by its bare name) and "namespace".
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

// Notify has changed called after each change that a watch would tell of, for as long as
// the cluster is there. It is Watch for who has no goroutine to wait in.
func (c *Cluster) Notify(changed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[c.watchID] = changed
	c.watchID++
}
