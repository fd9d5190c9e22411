package kube

import (
	"encoding/json"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// writers finds in managedFields who else wrote what certd manages: the data
// keys given, and its label and annotations. Most recent first. After certd
// has written, the other no longer owns these fields and is gone from here.
func writers(entries []metav1.ManagedFieldsEntry, keys []string) []rotation.Writer {
	var found []rotation.Writer
	for _, e := range entries {
		if e.Manager == FieldManager || e.FieldsV1 == nil || !ownsOurs(e.FieldsV1.GetRawBytes(), keys) {
			continue
		}
		w := rotation.Writer{Name: e.Manager}
		if e.Time != nil {
			w.At = e.Time.Time
		}
		found = append(found, w)
	}
	slices.SortStableFunc(found, func(a, b rotation.Writer) int { return b.At.Compare(a.At) })
	return found
}

// ownsOurs reads FieldsV1: a trie of objects whose names are "f:" and the name
// of a field (structured-merge-diff, fieldpath/serialize.go).
func ownsOurs(fields []byte, keys []string) bool {
	var top struct {
		Data       map[string]json.RawMessage `json:"f:data"`
		BinaryData map[string]json.RawMessage `json:"f:binaryData"`
		Metadata   struct {
			Labels      map[string]json.RawMessage `json:"f:labels"`
			Annotations map[string]json.RawMessage `json:"f:annotations"`
		} `json:"f:metadata"`
	}
	if json.Unmarshal(fields, &top) != nil {
		return false
	}
	for _, key := range keys {
		if top.Data["f:"+key] != nil || top.BinaryData["f:"+key] != nil {
			return true
		}
	}
	for _, a := range []string{payload.AnnotationFleet, payload.AnnotationSerial, payload.AnnotationEpoch, payload.AnnotationKeep} {
		if top.Metadata.Annotations["f:"+a] != nil {
			return true
		}
	}
	return top.Metadata.Labels["f:"+payload.LabelManagedBy] != nil
}
