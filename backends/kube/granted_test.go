package kube

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	clientscheme "k8s.io/client-go/kubernetes/scheme"

	"certd.internal/rotation"
)

// Each right is asked for, with its verb, group and name, and what comes back is
// told of that right.
func TestGrantsAreAskedForOneByOne(t *testing.T) {
	decode := clientscheme.Codecs.UniversalDeserializer() // client-go speaks protobuf
	c := fakeServer(t, 0, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.HasSuffix(r.URL.Path, "/selfsubjectaccessreviews") {
			status(404, "NotFound", r.URL.Path)(w, r)
			return
		}
		var review authorizationv1.SelfSubjectAccessReview
		if _, _, err := decode.Decode(body, nil, &review); err != nil {
			status(400, "BadRequest", "what is this?")(w, r)
			return
		}
		a := review.Spec.ResourceAttributes
		// All but the writing of the issuer, and the looks into other namespaces.
		review.Status.Allowed = !(a.Resource == "secrets" && a.Verb == "patch") && !(a.Resource == "pods" && a.Namespace == "")
		w.Header().Set("Content-Type", "application/json")
		review.APIVersion, review.Kind = "authorization.k8s.io/v1", "SelfSubjectAccessReview"
		_ = json.NewEncoder(w).Encode(review)
	})
	grants, err := c.Grants(t.Context(), rotation.Observation{}, false, Features{})
	if err != nil {
		t.Fatal(err)
	}
	missing := map[string]string{}
	for _, g := range grants {
		if !g.Has {
			missing[g.String()] = g.Lost
		}
	}
	if len(grants) < 15 || len(missing) != 2 {
		t.Errorf("%d rights, of which are missing %v", len(grants), missing)
	}
	for what, lost := range missing {
		switch {
		case strings.Contains(what, "patch secrets linkerd-identity-issuer") && lost == "":
		case strings.Contains(what, "list pods") && lost == lostCount:
		default:
			t.Errorf("missing: %s (%s)", what, lost)
		}
	}
}

func TestGrantsThatCannotBeAskedForAreAnError(t *testing.T) {
	c := fakeServer(t, 0, status(503, "ServiceUnavailable", "shutting down"))
	if grants, err := c.Grants(t.Context(), rotation.Observation{}, false, Features{}); err == nil {
		t.Errorf("%v", grants)
	}
}
