package kube

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/client-go/rest"

	"certd.internal/rotation"
)

// credential is what certd is let in by, where it ends: of a client certificate and a token the one
// that ends first, nil where neither is known to. Files are read each time, since others may have
// renewed them; of what stands in the kubeconfig itself, a change makes another Cluster.
func (a Access) credential(rc *rest.Config) *rotation.Credential {
	from := cmp.Or(a.File, "its kubeconfig")
	if a.InCluster {
		from = "the service account of its pod"
	}
	var first *rotation.Credential
	consider := func(c *rotation.Credential) {
		if c != nil && (first == nil || c.Ends.Before(first.Ends)) {
			first = c
		}
	}
	text, where := content(rc.CertData, rc.CertFile, from)
	consider(certificateEnds(text, where))
	text, where = content([]byte(rc.BearerToken), rc.BearerTokenFile, from)
	consider(tokenEnds(string(text), where))
	return first
}

// content is what a file has, if one is named, as client-go prefers it; else what was given.
func content(given []byte, file, from string) (text []byte, where string) {
	if file == "" {
		return given, from
	}
	if text, err := os.ReadFile(file); err == nil {
		return text, file
	}
	return given, from
}

// certificateEnds is the first certificate of a PEM file, which is the one that is shown.
func certificateEnds(text []byte, from string) *rotation.Credential {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return &rotation.Credential{Kind: "client certificate", From: from, Begun: c.NotBefore, Ends: c.NotAfter}
	}
}

// signedBy are the algorithms that an API server may sign tokens by, or an issuer of its own
// (kube-apiserver's --service-account-key-file, --oidc-signing-algs).
var signedBy = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// tokenEnds reads when a token ends (exp, RFC 7519 section 4.1.4). Only the API server can tell
// whether it is good; one that is no JWT says nothing of itself, and a Secret's ends never.
func tokenEnds(token, from string) *rotation.Credential {
	t, err := jwt.ParseSigned(strings.TrimSpace(token), signedBy)
	if err != nil {
		return nil
	}
	var claims jwt.Claims
	if err := t.UnsafeClaimsWithoutVerification(&claims); err != nil || claims.Expiry == nil {
		return nil
	}
	c := &rotation.Credential{Kind: "token", From: from, Ends: claims.Expiry.Time()}
	if begun := cmp.Or(claims.IssuedAt, claims.NotBefore); begun != nil {
		c.Begun = begun.Time()
	} else {
		c.Begun = c.Ends.Add(-365 * 24 * time.Hour)
	}
	return c
}
