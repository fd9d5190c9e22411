package kube

import (
	"encoding/json"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"certd.internal/backends/kube/payload"
	"certd.internal/rotation"
)

// writers finds in managedFields who else wrote what certd manages, which is what
// owns tells of. Most recent first. After certd has written, the other no longer
// owns these fields and is gone from here.
func writers(entries []metav1.ManagedFieldsEntry, owns func(fields []byte) bool) []rotation.Writer {
	var found []rotation.Writer
	for _, e := range entries {
		if e.Manager == FieldManager || e.FieldsV1 == nil || !owns(e.FieldsV1.GetRawBytes()) {
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

// writtenAt is when certd last wrote what owns tells of; zero where it never
// did, or no longer owns it.
func writtenAt(entries []metav1.ManagedFieldsEntry, owns func(fields []byte) bool) time.Time {
	var last time.Time
	for _, e := range entries {
		if e.Manager == FieldManager && e.FieldsV1 != nil && e.Time != nil && e.Time.After(last) && owns(e.FieldsV1.GetRawBytes()) {
			last = e.Time.Time
		}
	}
	return last
}

// FieldsV1 is a trie of objects whose names are "f:" and the name of a field,
// or "k:" and the keys of a list's item (structured-merge-diff,
// fieldpath/serialize.go). A member "." says that its parent is owned as such,
// which says nothing of the fields in it.
func owned(fields []byte, path ...string) bool {
	for _, step := range path {
		var node map[string]json.RawMessage
		if json.Unmarshal(fields, &node) != nil || node[step] == nil {
			return false
		}
		fields = node[step]
	}
	return true
}

// ownedWhole is owned, also by who owns the whole of something on the path: an
// empty object is a leaf of the trie. (Of a map it would say no more than that
// somebody wrote it empty, so data, labels and annotations are not asked this
// way.)
func ownedWhole(fields []byte, path ...string) bool {
	for i := range path {
		var node map[string]json.RawMessage
		if !owned(fields, path[i]) || json.Unmarshal(fields, &node) != nil {
			return false
		}
		if fields = node[path[i]]; string(fields) == "{}" {
			return true
		}
	}
	return true
}

// dataFields tells of the data under the keys given.
func dataFields(keys []string) func([]byte) bool {
	return func(fields []byte) bool {
		return slices.ContainsFunc(keys, func(key string) bool {
			return owned(fields, "f:data", "f:"+key) || owned(fields, "f:binaryData", "f:"+key)
		})
	}
}

// caBundleFields tells of the caBundle of a webhook configuration's entries, or,
// without any, of an APIService.
func caBundleFields(entries []string) func([]byte) bool {
	return func(fields []byte) bool {
		if len(entries) == 0 {
			return ownedWhole(fields, "f:spec", "f:caBundle")
		}
		return slices.ContainsFunc(entries, func(name string) bool {
			key, err := json.Marshal(map[string]string{"name": name})
			return err == nil && ownedWhole(fields, "f:webhooks", "k:"+string(key), "f:clientConfig", "f:caBundle")
		})
	}
}

// orMarks tells of certd's label and annotations, too.
func orMarks(owns func([]byte) bool) func([]byte) bool {
	owns = orAnnotations(owns, payload.AnnotationFleet, payload.AnnotationSerial, payload.AnnotationEpoch, payload.AnnotationKeep, payload.AnnotationAdopted)
	return func(fields []byte) bool {
		return owns(fields) || owned(fields, "f:metadata", "f:labels", "f:"+payload.LabelManagedBy)
	}
}

// orAnnotations tells of these annotations, too.
func orAnnotations(owns func([]byte) bool, names ...string) func([]byte) bool {
	return func(fields []byte) bool {
		return owns(fields) || slices.ContainsFunc(names, func(name string) bool {
			return owned(fields, "f:metadata", "f:annotations", "f:"+name)
		})
	}
}
