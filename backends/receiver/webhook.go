package receiver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Webhook is whoever takes signed webhooks as of Standard Webhooks 1.0: the
// message as JSON, signed with a secret that both know. One that is sent again
// has the same webhook-id.
type Webhook struct {
	Access Access
	URL    string
	// Secret has one or more secrets, whsec_… each, with white space between
	// them: each signs, so that the receiver can change from one to the next.
	Secret Secret
}

// Traits implements Receiver.
func (Webhook) Traits() Traits { return Traits{Kind: "webhook"} }

// Send implements Receiver.
func (w Webhook) Send(ctx context.Context, messages []Message) error {
	m, err := one(messages)
	if err != nil {
		return err
	}
	text, err := w.Secret.Read()
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell the webhook: %v", err)}
	}
	keys, err := signingKeys(text)
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell the webhook: what is kept as its secret cannot be used: %v", err)}
	}
	u, err := w.Access.Check(w.URL)
	if err != nil {
		return &Failure{Why: fmt.Sprintf("tell the webhook: its URL cannot be used: %v", err)}
	}
	body, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("tell the webhook: %w", err)
	}
	now := time.Now().Unix() // of the attempt: receivers refuse what is old
	header := http.Header{}
	header.Set("webhook-id", m.ID)
	header.Set("webhook-timestamp", strconv.FormatInt(now, 10))
	header.Set("webhook-signature", signatures(keys, m.ID, now, body))
	return w.Access.post(ctx, "the webhook at "+u.Host, u, header, body)
}

// signatures are the values of webhook-signature, one for each key.
func signatures(keys [][]byte, id string, at int64, body []byte) string {
	var all []string
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%d.", id, at)
		mac.Write(body)
		all = append(all, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	return strings.Join(all, " ")
}

// signingKeys reads secrets. Errors do not quote them.
func signingKeys(text []byte) (keys [][]byte, err error) {
	for secret := range bytes.FieldsSeq(text) {
		encoded, is := bytes.CutPrefix(secret, []byte("whsec_"))
		if !is {
			return nil, errors.New(`it does not begin with "whsec_"; make one with: echo "whsec_$(openssl rand -base64 32)"`)
		}
		key, err := base64.StdEncoding.DecodeString(string(encoded))
		if err != nil {
			return nil, errors.New(`what follows "whsec_" is not base64`)
		}
		if len(key) < 24 || len(key) > 64 {
			return nil, fmt.Errorf("it has %d bytes, and between 24 and 64 are asked for", len(key))
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("it is empty")
	}
	return keys, nil
}
