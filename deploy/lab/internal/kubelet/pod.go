package kubelet

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"certd.internal/deploy/lab/internal/identity"
)

var everything = labels.Everything()

// mountRetry is how often missing Secrets and ConfigMaps are looked for in case
// their arrival was missed.
const mountRetry = time.Second

// pod is what the kubelet remembers of one pod. One worker at a time has it;
// projectAt, mounted and replica are read by others too, under Kubelet.mu, and
// servers have a lock of their own.
type pod struct {
	uid       types.UID
	ip        string       // as its status tells
	addresses []netip.Addr // what it has of Kubelet.addresses

	mounted    bool
	waitingFor string                // what the status says is missing
	readyAt    time.Time             // zero until mounted
	projectAt  time.Time             // zero: the files are up to date
	containers map[string]*container // by name; empty until started
	restartAt  time.Time             // of those that crashed; zero: all run

	replica *identity.Replica // of an identity pod that runs
	events  record.EventBroadcaster
	servers *servers // nil without
}

// container is one container's past and present.
type container struct {
	startedAt metav1.Time
	restarts  int32
	failure   string // what it said before it ended; "" while it runs
}

// newPod gives a pod its address: one that is nobody's, or, where it has
// servers, one of this machine to itself.
func (k *Kubelet) newPod(spec *corev1.Pod) (*pod, error) {
	p := &pod{uid: spec.UID, containers: map[string]*container{}}
	if !HasServers(spec) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.nextIP++
		p.ip = fmt.Sprintf("10.200.%d.%d", k.nextIP>>8, k.nextIP&255)
		return p, nil
	}
	wanted := 1
	if spec.Annotations["lab/unreachable"] == "true" {
		wanted = 2 // one to listen on, and one to tell
	}
	for len(p.addresses) < wanted {
		addr, err := k.addresses.take()
		if err != nil {
			for _, addr := range p.addresses {
				k.addresses.giveBack(addr)
			}
			return nil, err
		}
		p.addresses = append(p.addresses, addr)
	}
	p.servers, p.ip = newServers(p.addresses[0]), p.addresses[wanted-1].String()
	return p, nil
}

func (p *pod) stopReplica() {
	if p.replica != nil {
		p.replica.Stop()
		p.events.Shutdown()
	}
}

// advance is the life of a pod: mount, become ready, follow changes, and, where
// more than the status is simulated, crash and come back.
func (k *Kubelet) advance(ctx context.Context, p *pod, spec *corev1.Pod) (again time.Duration, err error) {
	if !p.mounted {
		// mounted before it is: a change from here on counts as one.
		k.mu.Lock()
		p.mounted = true
		k.mu.Unlock()
		if err := k.projects.project(spec); err != nil {
			k.mu.Lock()
			p.mounted, p.projectAt = false, time.Time{}
			k.mu.Unlock()
			if p.waitingFor != err.Error() {
				if err := k.setStatus(ctx, p, spec, err.Error()); err != nil {
					return 0, err
				}
				p.waitingFor = err.Error()
			}
			return mountRetry, nil // contentChanged wakes it sooner
		}
		p.readyAt = time.Now().Add(annotatedDuration(spec, "lab/ready-delay", k.options.ReadyDelay))
	}
	if left := k.projectionDue(p); left > 0 {
		again = left
	} else if left < 0 {
		if err := k.projects.project(spec); err != nil {
			k.options.Log.Warn("volumes keep their old files", "pod", spec.Namespace+"/"+spec.Name, "err", err)
		}
	}
	switch {
	case spec.Annotations["lab/never-ready"] == "true":
		return again, nil
	case len(p.containers) == 0:
		if left := time.Until(p.readyAt); left > 0 {
			return sooner(again, left), nil
		}
		k.run(ctx, p, spec)
	case !p.restartAt.IsZero():
		if left := time.Until(p.restartAt); left > 0 {
			return sooner(again, left), nil
		}
		k.run(ctx, p, spec)
	case spec.Status.Phase == corev1.PodRunning && ready(spec) == p.restartAt.IsZero():
		return again, nil
	}
	if !p.restartAt.IsZero() {
		again = sooner(again, time.Until(p.restartAt))
	}
	return again, k.setStatus(ctx, p, spec, "")
}

// projectionDue returns how long until the files change: 0 if nothing changed,
// negative if now.
func (k *Kubelet) projectionDue(p *pod) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if p.projectAt.IsZero() {
		return 0
	}
	if left := time.Until(p.projectAt); left > 0 {
		return left
	}
	p.projectAt = time.Time{}
	return -1
}

// run starts the containers, or those again that have crashed. Only the
// identity controller and servers can.
func (k *Kubelet) run(ctx context.Context, p *pod, spec *corev1.Pod) {
	p.restartAt = time.Time{}
	crashed, wait := false, time.Duration(0)
	for i := range spec.Spec.Containers {
		c := &spec.Spec.Containers[i]
		state := p.containers[c.Name]
		switch {
		case state == nil:
			state = &container{}
			p.containers[c.Name] = state
		case state.failure == "":
			continue
		default:
			state.restarts++
		}
		state.startedAt, state.failure = metav1.Now(), ""
		if err := k.start(ctx, p, spec, c); err != nil {
			state.failure, crashed = err.Error(), true
			wait = max(wait, min(k.options.BackOff<<min(state.restarts, 10), maxBackOff))
		}
	}
	if crashed {
		p.restartAt = time.Now().Add(wait)
	}
}

func (k *Kubelet) start(ctx context.Context, p *pod, spec *corev1.Pod, c *corev1.Container) error {
	switch {
	case serverVolume(c) != "":
		return k.startServer(p, spec, c)
	case isIdentity(spec) && p.replica == nil:
		replica, events, err := k.startIdentity(ctx, spec)
		if err != nil {
			return err
		}
		k.mu.Lock()
		p.replica, p.events = replica, events
		k.mu.Unlock()
	}
	return nil
}

// setStatus writes the pod's status: creating while waitingFor is set, else
// running, ready unless the container has crashed.
func (k *Kubelet) setStatus(ctx context.Context, p *pod, spec *corev1.Pod, waitingFor string) error {
	now := metav1.Now()
	up := corev1.ConditionTrue
	if waitingFor != "" || !p.restartAt.IsZero() {
		up = corev1.ConditionFalse
	}
	spec = spec.DeepCopy()
	status := &spec.Status
	status.Phase, status.Conditions = corev1.PodRunning, nil
	if waitingFor != "" {
		status.Phase = corev1.PodPending
	} else {
		status.PodIP, status.PodIPs = p.ip, []corev1.PodIP{{IP: p.ip}}
	}
	if status.StartTime == nil {
		status.StartTime = &now
	}
	for _, c := range []corev1.PodCondition{
		{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodInitialized, Status: corev1.ConditionTrue},
		{Type: corev1.ContainersReady, Status: up}, {Type: corev1.PodReady, Status: up}} {
		c.LastTransitionTime = now
		status.Conditions = append(status.Conditions, c)
	}
	state := func(old []corev1.ContainerStatus, c corev1.Container) corev1.ContainerStatus {
		s := corev1.ContainerStatus{Name: c.Name, Image: c.Image}
		past := p.containers[c.Name]
		if past == nil { // before it starts; init containers are as old as the rest
			past = &container{startedAt: now}
		}
		running := waitingFor == "" && past.failure == ""
		s.Ready, s.Started, s.RestartCount = running, &running, past.restarts
		switch {
		case waitingFor != "":
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating", Message: waitingFor}
		case past.failure != "":
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off " + time.Until(p.restartAt).Round(time.Second).String() + " restarting failed container"}
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1, Reason: "Error", Message: past.failure, StartedAt: past.startedAt, FinishedAt: past.startedAt}
		default:
			s.State.Running = &corev1.ContainerStateRunning{StartedAt: past.startedAt}
			for _, was := range old {
				if was.Name == c.Name {
					s.LastTerminationState = was.LastTerminationState
				}
			}
		}
		return s
	}
	var containers []corev1.ContainerStatus
	for _, c := range spec.Spec.Containers {
		containers = append(containers, state(status.ContainerStatuses, c))
	}
	var sidecars []corev1.ContainerStatus
	for _, c := range spec.Spec.InitContainers {
		sidecars = append(sidecars, state(status.InitContainerStatuses, c))
	}
	status.ContainerStatuses, status.InitContainerStatuses = containers, sidecars
	_, err := k.client.CoreV1().Pods(spec.Namespace).UpdateStatus(ctx, spec, metav1.UpdateOptions{})
	return err
}

func ready(spec *corev1.Pod) bool {
	for _, c := range spec.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// sooner is the earlier of two waits, where 0 stands for none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b < a {
		return max(b, time.Millisecond)
	}
	return a
}

func isIdentity(spec *corev1.Pod) bool {
	return spec.Labels["linkerd.io/control-plane-component"] == "identity"
}

// Where the identity controller looks for its files; the paths are constants
// there too (linkerd2 controller/cmd/identity/main.go).
const (
	issuerMount = "/var/run/linkerd/identity/issuer"
	rootsMount  = "/var/run/linkerd/identity/trust-roots"
)

func (k *Kubelet) startIdentity(ctx context.Context, spec *corev1.Pod) (*identity.Replica, record.EventBroadcaster, error) {
	issuer, roots, files := "", "", "linkerd.io/tls"
	for _, c := range spec.Spec.Containers {
		for _, m := range c.VolumeMounts {
			switch path.Clean(m.MountPath) {
			case issuerMount:
				issuer = m.Name
			case rootsMount:
				roots = m.Name
			}
		}
		for _, arg := range c.Args {
			if name, value, ok := strings.Cut(strings.TrimLeft(arg, "-"), "="); ok && name == "identity-scheme" {
				files = value
			}
		}
	}
	dir := k.projects.podDir(spec.Namespace, spec.Name)
	events := record.NewBroadcaster()
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: k.client.CoreV1().Events(spec.Namespace)})
	recorder := events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "linkerd-identity"})
	about := &corev1.ObjectReference{Kind: "Deployment", APIVersion: "apps/v1", Namespace: spec.Namespace, Name: "linkerd-identity"}
	if d, err := k.client.AppsV1().Deployments(spec.Namespace).Get(ctx, about.Name, metav1.GetOptions{}); err == nil {
		about.UID = d.UID
	}
	log := k.options.Log.With("pod", spec.Namespace+"/"+spec.Name)
	replica, err := identity.Start(identity.Config{
		RootsFile: filepath.Join(dir, roots, "ca-bundle.crt"),
		IssuerDir: filepath.Join(dir, issuer),
		Scheme:    files,
		Deaf:      k.ignoresReloads(spec),
		Event: func(eventType, reason, message string) {
			log.Info("identity replica", "reason", reason, "message", message)
			recorder.Event(about, eventType, reason, message)
		},
		Log: log,
	})
	if err != nil {
		events.Shutdown()
		return nil, nil, err
	}
	return replica, events, nil
}
