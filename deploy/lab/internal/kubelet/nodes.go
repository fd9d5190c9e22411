package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const nodePrefix = "lab-node-"

func nodeName(i int) string { return nodePrefix + strconv.Itoa(i) }

func (k *Kubelet) makeNode(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/os": "linux", "kubernetes.io/hostname": name}}}
	if _, err := k.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	now := metav1.Now()
	patch, err := json.Marshal(map[string]any{"status": corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "LabReady", LastHeartbeatTime: now, LastTransitionTime: now}}}})
	if err != nil {
		return fmt.Errorf("make node %s: %w", name, err)
	}
	if _, err := k.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("make node %s ready: %w", name, err)
	}
	return nil
}

// nodeFor chooses a pod's node. Pods of a DaemonSet name theirs; those of any
// other owner are spread evenly, as a scheduler would; a pod without an owner
// always gets the same one.
func (k *Kubelet) nodeFor(key string, spec *corev1.Pod) string {
	if a := spec.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, field := range term.MatchFields {
				if field.Key == "metadata.name" && len(field.Values) == 1 {
					return field.Values[0]
				}
			}
		}
	}
	owner := metav1.GetControllerOf(spec)
	if owner == nil {
		return nodeName(k.firstNode(key))
	}
	others, err := k.pods.Pods(spec.Namespace).List(everything)
	if err != nil {
		others = nil // the lister reads memory; it has no errors
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	// A binding that is not in the lister yet counts, too: several pods of one
	// owner are bound at the same time.
	if node, ok := k.bound[key]; ok {
		return node
	}
	load := map[string]int{}
	for _, other := range others {
		if by := metav1.GetControllerOf(other); by == nil || by.UID != owner.UID || other.DeletionTimestamp != nil {
			continue
		}
		node := other.Spec.NodeName
		if node == "" {
			node = k.bound[other.Namespace+"/"+other.Name]
		}
		load[node]++
	}
	first := k.firstNode(spec.Namespace + "/" + owner.Name)
	best := nodeName(first)
	for i := range k.options.Nodes {
		if node := nodeName((first + i) % k.options.Nodes); load[node] < load[best] {
			best = node
		}
	}
	k.bound[key] = best
	return best
}

// firstNode is the same for the same name, and different for different ones.
func (k *Kubelet) firstNode(name string) int {
	h := fnv.New32a()
	h.Write([]byte(name))
	return int(h.Sum32() % uint32(k.options.Nodes))
}

// lag is how long after a change of a Secret or ConfigMap the pod's files
// change. Where its annotation has several durations, each node has its own.
func (k *Kubelet) lag(spec *corev1.Pod) time.Duration {
	entries := strings.Split(spec.Annotations["lab/projection-lag"], ",")
	node, err := strconv.Atoi(strings.TrimPrefix(spec.Spec.NodeName, nodePrefix))
	if err != nil || node < 0 {
		node = 0 // a node that the lab has not made
	}
	if d, err := time.ParseDuration(strings.TrimSpace(entries[node%len(entries)])); err == nil {
		return d
	}
	return k.options.Lag
}
