package logs

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// Hidden stands where a secret was.
const Hidden = "(hidden)"

// leastSecret is the length below which a secret is not looked for by its value:
// a passphrase of three letters would tear every text to pieces.
const leastSecret = 6

// shapes are what secrets look like, wherever they come from. The first group
// stays before the secret, the second after it.
var shapes = [...]*regexp.Regexp{
	// Private keys in PEM, also where line breaks are escaped, as in JSON.
	regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\z)`),
	// Vault's and OpenBao's tokens.
	regexp.MustCompile(`\b(?:hv[sbr]|[sbr])\.[A-Za-z0-9_-]{20,}`),
	// JSON web tokens: of service accounts, of OIDC.
	regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?`),
	regexp.MustCompile(`(?i)(\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}`),
	regexp.MustCompile(`(?i)(\bx-vault-token["']?\s*[:=]\s*["']?)[^\s"',}]+`),
	regexp.MustCompile(`(?i)(["']?\b(?:password|passphrase|passwd|secret_id|secretid|client_token|token|pin-value|routing_key|api_key)["']?\s*[:=]\s*["']?)[^\s"',;&(){}]{4,}`),
	// user:password@ in an address.
	regexp.MustCompile(`(\b[a-z][a-z0-9+.-]*://[^\s/@:"]*:)[^\s/@"]+(@)`),
	regexp.MustCompile(`(\bhooks\.slack\.com/services/)[A-Za-z0-9/_-]+`),
}

// A Scrubber takes secrets out of text: those it is told of, in the forms in
// which texts have them, and whatever looks like one.
type Scrubber struct{ known []string }

// NewScrubber looks for these secrets, too. Very short ones are left to shapes.
func NewScrubber(secrets ...[]byte) Scrubber {
	var s Scrubber
	add := func(text string) {
		if len(text) >= leastSecret && !slices.Contains(s.known, text) {
			s.known = append(s.known, text)
		}
	}
	for _, secret := range secrets {
		text := strings.TrimSpace(string(secret))
		add(text)
		add(url.QueryEscape(text))
		add(base64.StdEncoding.EncodeToString([]byte(text)))
		if quoted, err := json.Marshal(text); err == nil {
			add(strings.Trim(string(quoted), `"`))
		}
	}
	// The longest first: one may be part of another.
	slices.SortFunc(s.known, func(a, b string) int { return cmp.Compare(len(b), len(a)) })
	return s
}

// Clean is text without secrets.
func (s Scrubber) Clean(text string) string {
	for _, secret := range s.known {
		text = strings.ReplaceAll(text, secret, Hidden)
	}
	for _, shape := range shapes {
		text = shape.ReplaceAllString(text, "${1}"+Hidden+"${2}")
	}
	return text
}
