package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/hashicorp/vault/api"

	"certd.internal/rotation"
)

// fault is an exchange that did not end well.
type fault struct {
	status     int // of the answer; 0: there was none, or it was cut short
	texts      []string
	foreign    bool   // the answer is not Vault's own JSON
	retryAfter string // header
	sent       bool   // the request may have reached Vault
	err        error  // without an answer: why
	secrets    secrets
}

// secrets are what whoever answers may know, and might repeat. Errors do not.
type secrets []string

// hide is text without them.
func (s secrets) hide(text string) string {
	for _, secret := range s {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "(secret)")
		}
	}
	return text
}

func newFault(resp *api.Response, err error, sent bool, s secrets) *fault {
	var re *api.ResponseError
	if !errors.As(err, &re) {
		return &fault{sent: sent, err: err, secrets: s}
	}
	f := &fault{status: re.StatusCode, foreign: re.RawError, sent: true, secrets: s}
	if resp != nil && resp.Response != nil {
		f.retryAfter = oneLine(s.hide(resp.Header.Get("Retry-After")))
	}
	if f.foreign {
		return f // a proxy's page may repeat what was sent to it
	}
	for _, text := range re.Errors {
		f.texts = append(f.texts, oneLine(s.hide(text))) // in this order: a secret that is cut would not be found
	}
	return f
}

// oneLine flattens Vault's multi-line texts and bounds them.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}

func (f *fault) says(parts ...string) bool {
	for _, text := range f.texts {
		for _, part := range parts {
			if strings.Contains(text, part) {
				return true
			}
		}
	}
	return false
}

func (f *fault) text() string {
	switch {
	case f.status == 0:
		return f.secrets.hide(f.err.Error())
	case f.foreign:
		return fmt.Sprintf("status %d in an answer that is not Vault's (a proxy in between?)", f.status)
	case len(f.texts) == 0:
		return fmt.Sprintf("status %d", f.status)
	}
	return fmt.Sprintf("status %d: %s", f.status, strings.Join(f.texts, "; "))
}

// classify turns a fault into an error that says what to do, wrapping the
// sentinel a caller decides by. A 403 is the token's business (see do); what
// comes here is as good as settled.
func (c *client) classify(q call, f *fault) error {
	why, sentinel := c.explain(q, f)
	if sentinel == nil {
		return fmt.Errorf("%s: %s", q.doing, why)
	}
	return fmt.Errorf("%s: %s: %w", q.doing, why, sentinel)
}

func (c *client) explain(q call, f *fault) (why string, sentinel error) {
	if f.status == 0 {
		return c.explainSilence(q, f)
	}
	switch {
	case f.says("Vault is sealed"):
		return "Vault is sealed; unseal it (vault operator unseal)", rotation.ErrUnavailable
	case f.says("security barrier not initialized", "is not initialized"):
		return "Vault is not initialised yet (vault operator init)", rotation.ErrUnavailable
	case f.says("local node not active"):
		return f.text() + "; Vault is electing a leader", rotation.ErrUnavailable
	case f.says("check-and-set parameter did not match"):
		return "somebody else has written it", rotation.ErrChanged
	case f.says("requested version for signing", "refusing to use soft-deleted key", "no existing key named"):
		return f.text() + "; somebody rotated or withdrew this key in Vault", rotation.ErrKeyUnfit
	case f.says("signing key not found"):
		// OpenBao's standbys say so for a moment after a key was made. The
		// key was read just now, so it is not simply missing.
		return f.text() + "; the node that answered does not know the key (yet)", rotation.ErrUnavailable
	case f.says("cannot be used with an existing key"): // a 500
		return "the name is taken", rotation.ErrKeyExists
	case f.says("value being too large", "exceeds allowed length", "request body too large"):
		return f.text(), nil
	case f.status == http.StatusNotFound && len(f.texts) == 0 && !f.foreign && q.absent != nil:
		return "it does not exist", q.absent
	case f.says("unable to find PKI issuer"):
		return f.text(), rotation.ErrKeyNotFound
	case f.says("no handler for route"):
		return f.text() + "; nothing is mounted at this path: check the mount's name in certd's configuration, and the namespace", nil
	case f.status == http.StatusTooManyRequests && f.retryAfter != "":
		return f.text() + "; Vault asks to wait " + f.retryAfter + " s", rotation.ErrUnavailable
	case f.status == http.StatusTooManyRequests:
		return f.text() + "; a rate limit quota of Vault (sys/quotas) is used up, or a standby answered", rotation.ErrUnavailable
	case f.foreign && f.status >= 500 && q.lasting():
		// A gateway that lost the answer does not know what Vault did. Envoy says 503 also
		// where the connection ended after the request was sent.
		return f.text(), rotation.ErrOutcomeUnknown
	case f.status == http.StatusInternalServerError:
		// Vault writes to its audit log before it does something and once more before it
		// answers, and says the same where either failed; and a leader that is deposed does
		// not know whether the others have what it wrote.
		sentinel = rotation.ErrUnavailable
		if q.lasting() {
			sentinel = rotation.ErrOutcomeUnknown
		}
		if f.says("internal error") {
			return f.text() + "; Vault answers so when it cannot write its audit log: look at its disks and its own log", sentinel
		}
		return f.text(), sentinel
	case f.status >= 500, f.status == http.StatusPreconditionFailed, f.status == 472, f.status == 473, f.status == 474:
		return f.text(), rotation.ErrUnavailable
	case f.status == http.StatusForbidden:
		return f.text(), rotation.ErrDenied
	case f.foreign && f.status == http.StatusBadRequest && strings.HasPrefix(c.address, "http://"):
		return f.text() + "; if Vault speaks TLS there, the address begins with https://", nil
	}
	return f.text(), nil
}

// explainSilence is for requests without a whole answer.
func (c *client) explainSilence(q call, f *fault) (string, error) {
	var redirect *redirectError
	if errors.As(f.err, &redirect) {
		return fmt.Sprintf("%s; certd follows no redirects: let the address be one that reaches the active node, or forwards to it", f.secrets.hide(redirect.Error())), rotation.ErrUnavailable
	}
	lost := rotation.ErrUnavailable
	if f.sent && q.lasting() {
		lost = rotation.ErrOutcomeUnknown
	}
	text := f.transportText()
	switch {
	case errors.Is(f.err, context.DeadlineExceeded):
		return fmt.Sprintf("no answer from %s in time", c.address), lost
	case errors.Is(f.err, context.Canceled):
		return fmt.Sprintf("given up while waiting for %s", c.address), lost
	case errors.Is(f.err, errTooLong):
		return errTooLong.Error(), lost
	}
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var verification *tls.CertificateVerificationError
	switch {
	case errors.As(f.err, &authority):
		return fmt.Sprintf("%s shows a certificate of an unknown CA (%s); name Vault's CA in keys.vault.caFile, or find out who answers there", c.address, text), rotation.ErrUnavailable
	case errors.As(f.err, &host):
		return fmt.Sprintf("%s shows a certificate for another name (%s); use that name, or set VAULT_TLS_SERVER_NAME", c.address, text), rotation.ErrUnavailable
	case errors.As(f.err, &verification):
		return fmt.Sprintf("%s shows a certificate that does not verify: %s", c.address, text), rotation.ErrUnavailable
	case strings.Contains(text, "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s does not speak TLS", c.address), rotation.ErrUnavailable
	case f.sent:
		return fmt.Sprintf("the answer of %s was lost: %s", c.address, text), lost
	}
	return fmt.Sprintf("%s cannot be reached: %s", c.address, text), rotation.ErrUnavailable
}

// transportText is the reason without net/http's own "Put https://…:".
func (f *fault) transportText() string {
	err := f.err
	var ue *url.Error
	for errors.As(err, &ue) {
		err = ue.Err
	}
	return oneLine(f.secrets.hide(err.Error()))
}
